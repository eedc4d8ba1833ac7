# mypy: disable-error-code="import-not-found"
"""A job of training: captioned pictures are tokenized, a model trains on them, and what came of it is written.

The output has ``job.json``, which says what the job is; ``work/``, with the token shards; ``run/``, the folder of the
trainer; and, at the end, ``model/`` or ``adapter/``, ``samples/``, ``curves.png`` and ``results.json``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .._boundary import translates_errors
from .._commits import stored
from .._files import write_json
from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import ConfigError
from ..pipeline import Chameleon
from ..tokenization import TokenizationOptions, tokenize_dataset
from ..training import DatasetError, Trainer, TrainingOptions, add_lora, read_log
from ..training.checks import check_documents
from ..training.errors import requires_extra
from ..training.lora import LORA_TARGETS
from ..training.trainer import CURVES_FILE, LOG_FILE, RUN_FILE
from .held_out import hold_out
from .new_model import NewModelOptions, write_new_model
from .options import EPOCHS, JobOptions
from .record import Job, absolute, claim
from .samples import write_samples

RESULTS_FILE = "results.json"
WORK_FOLDER = "work"
INITIAL_FOLDER = "initial"
RUN_FOLDER = "run"
MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"
SAMPLES_FOLDER = "samples"
LOSSES = ("loss", "text_loss", "picture_loss", "held_out_loss", "held_out_text_loss", "held_out_picture_loss")

Source = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a job has made."""

    model: Path | None
    """The folder of the model, for ``Chameleon.from_pretrained``; None where adapters weren't merged."""
    adapter: Path | None
    """The folder of the adapters, for ``load_lora``; None where the weights themselves trained."""
    steps: int
    """The steps that are done."""
    finished: bool
    """False where ``max_seconds`` ended the run; then there are no folders yet."""
    documents: int
    """The documents that it was trained on."""
    held_out: int
    """The documents that were held out."""
    refused: int
    """The samples that were refused; ``work/tokens/refused.jsonl`` says why."""
    skipped: tuple[tuple[str, str], ...]
    """Files in folders that were no sources, and why."""
    losses: dict[str, float]
    """The mean losses of the last step and of the held-out documents, in nats, by their names in the log."""


def finetune(
    model: Source,
    sources: Sequence[Source],
    output: Source,
    *,
    options: JobOptions | None = None,
    tokenization: TokenizationOptions | None = None,
    image_tokenizer: Source | None = None,
    processor: Source | None = None,
    resume: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    **training: Any,
) -> TrainedModel:
    """Fine-tune a model on pictures with captions; ``training`` are fields of ``TrainingOptions``.

    The recipe is ``TrainingOptions.finetuning``, with as many steps as ``options.epochs`` need unless ``steps`` is
    given, at most as many documents a step as there are, and rows of the model's context. ``tokenization`` is by
    default the chat template: a caption is a request, and its picture the answer, or the other way round.

    ``sources`` and ``workers`` are those of ``tokenize_dataset``. A job that was stopped continues with ``resume``, and
    ends with the same weights, bit for bit. Start it below ``if __name__ == "__main__":`` in a script.

    Raises ``ConfigError`` where the folder has a job and ``resume`` is false, or another job or none and it is true,
    ``DatasetError`` where no sample can be used, and what ``tokenize_dataset``, ``Trainer`` and ``add_lora`` raise.
    """
    job = Job(
        model=absolute(model),
        image_tokenizer=None if image_tokenizer is None else absolute(image_tokenizer),
        processor=None if processor is None else absolute(processor),
        options=options or JobOptions(),
        tokenization=tokenization or TokenizationOptions(template="chat"),
        training=training,
    )
    return run_job(job, sources, output, resume=resume, device=device, workers=workers)


def train(
    sources: Sequence[Source],
    output: Source,
    *,
    new: NewModelOptions,
    config: ChameleonConfig | None = None,
    options: JobOptions | None = None,
    tokenization: TokenizationOptions | None = None,
    resume: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    **training: Any,
) -> TrainedModel:
    """Train a new model on pictures with captions; ``training`` are fields of ``TrainingOptions``.

    ``new`` says which tokenizers it has, and ``config`` its shape, by default that of the 7B model; what the tokenizers
    determine is taken from them. The recipe is ``TrainingOptions.pretraining`` with a warm-up of at most a tenth of the
    steps. The other arguments, the rest of the recipe and the errors are those of ``finetune``.
    """
    job = Job(
        new=new,
        config=config or ChameleonConfig(),
        options=options or JobOptions(),
        tokenization=tokenization or TokenizationOptions(),
        training=training,
    )
    return run_job(job, sources, output, resume=resume, device=device, workers=workers)


@translates_errors
def run_job(
    job: Job,
    sources: Sequence[Source],
    output: Source,
    *,
    resume: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    show_progress: bool = False,
) -> TrainedModel:
    """Run a job or continue it; ``on_unit`` is called as ``progress`` of ``tokenize_dataset`` is."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("a job is one process; for several, use tokenize_dataset once and Trainer in each of them.")
    folder = Path(os.path.abspath(output))
    job.check()
    # A missing package is an error now, not after hours of work.
    with requires_extra("drawing curves"):
        import matplotlib  # noqa: F401
    if job.options.lora is not None:
        with requires_extra("LoRA", extra="lora"):
            import peft  # noqa: F401
    claim(folder, job, resume=resume, has_begun=os.path.exists(folder / RUN_FOLDER / RUN_FILE))
    if not resume:
        shutil.rmtree(folder / WORK_FOLDER / INITIAL_FOLDER, ignore_errors=True)
    model = job.model or str(_new_model(folder / WORK_FOLDER / INITIAL_FOLDER, job, sources))
    tokens = tokenize_dataset(
        model,
        sources,
        folder / WORK_FOLDER / "tokens",
        workers=workers,
        image_tokenizer=job.image_tokenizer,
        processor=job.processor,
        options=job.tokenization,
        device=device,
        progress=on_unit,
    )
    if not tokens.documents:
        raise DatasetError(f"no sample can be used: {tokens.folder / 'refused.jsonl'} says why.")
    dataset = tokens.open()
    documents, held_out = hold_out(dataset, job.options.held_out)
    chameleon = Chameleon.from_pretrained(
        model,
        dtype=job.options.dtype,
        device=device,
        quantization=job.options.quantization,
        image_tokenizer=job.image_tokenizer,
        processor=job.processor,
    )
    config = chameleon.model.config
    options = training_options(job, len(documents), config.context_length)
    # The trainer checks the documents of a dataset before the first step, and others as it takes them.
    check_documents(dataset, vocab_size=config.vocab_size, sequence_length=options.sequence_length)
    torch.manual_seed(options.seed)  # of the adapters
    adapted = _adapted(chameleon, job.options)
    trainer = Trainer(chameleon.model, documents, options, folder / RUN_FOLDER, held_out=held_out or None)
    result = trainer.run(show_progress=show_progress)
    log = read_log(folder / RUN_FOLDER / LOG_FILE)
    done = TrainedModel(
        model=folder / MODEL_FOLDER if result.finished and (adapted is None or job.options.merge) else None,
        adapter=folder / ADAPTER_FOLDER if result.finished and adapted is not None else None,
        steps=result.progress.step,
        finished=result.finished,
        documents=len(documents),
        held_out=len(held_out),
        refused=tokens.refused,
        skipped=tokens.skipped,
        losses={name: log[-1][name] for name in LOSSES if log and log[-1].get(name) is not None},
    )
    if done.finished:
        _write(folder, done, job, chameleon, adapted, held_out)
    return done


def training_options(job: Job, num_documents: int, context_length: int) -> TrainingOptions:
    """Return the options of a job's run. Raises ``ConfigError`` where it has both steps and epochs."""
    given = dict(job.training)
    defaults = TrainingOptions.finetuning(steps=1) if job.new is None else TrainingOptions.pretraining(steps=4000)
    batch_size = given.setdefault("batch_size", min(defaults.batch_size, num_documents))
    given.setdefault("sequence_length", min(defaults.sequence_length, context_length))
    if "steps" in given and job.options.epochs is not None:
        raise ConfigError("steps and epochs are both given; leave one of them out (--steps, --epochs).")
    epochs = EPOCHS if job.options.epochs is None else job.options.epochs
    steps = given.setdefault("steps", max(1, round(epochs * num_documents / batch_size)))
    if job.new is None:
        return TrainingOptions.finetuning(**given)
    given.setdefault("warmup_steps", min(defaults.warmup_steps, steps // 10))
    return TrainingOptions.pretraining(**given)


def _new_model(folder: Path, job: Job, sources: Sequence[Source]) -> Path:
    """Write the model that training starts from, unless an earlier run of the job has, and return its folder."""
    if not os.path.isfile(stored(folder, CONFIG_FILE)):
        assert job.new is not None
        assert job.config is not None
        seed = job.training.get("seed", 0)
        write_new_model(folder, sources, job.new, job.config, job.tokenization, seed=seed)
    return folder


def _adapted(chameleon: Chameleon, options: JobOptions) -> Any:
    """Add adapters where they are asked for; return peft's handle on them, or None."""
    if options.lora is None:
        return None
    return add_lora(
        chameleon.model,
        rank=options.lora,
        alpha=2.0 * options.lora if options.lora_alpha is None else options.lora_alpha,
        dropout=options.lora_dropout or 0.0,
        targets=options.lora_targets or LORA_TARGETS,
    )


def _write(folder: Path, done: TrainedModel, job: Job, chameleon: Chameleon, adapted: Any, held_out: Any) -> None:
    """Write everything that a finished run leaves; again where it was interrupted here."""
    chameleon.model.eval()
    shutil.copyfile(folder / RUN_FOLDER / CURVES_FILE, folder / CURVES_FILE)
    shown = [held_out[index] for index in range(min(job.options.samples, len(held_out)))]
    if shown:
        seed = job.training.get("seed", 0)
        write_samples(chameleon, shown, folder / SAMPLES_FOLDER, tokenization=job.tokenization, seed=seed)
    if done.adapter is not None:
        adapted.save_pretrained(str(done.adapter))
    if done.model is not None:
        if adapted is not None:
            adapted.merge_and_unload()  # in place
        chameleon.save_pretrained(done.model)
    fields = asdict(done)
    names = {name: None if fields[name] is None else fields[name].name for name in ("model", "adapter")}
    write_json(folder / RESULTS_FILE, {**fields, **names})
