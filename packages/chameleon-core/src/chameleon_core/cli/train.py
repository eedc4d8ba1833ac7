"""``chameleon finetune`` and ``chameleon train``: pictures with captions to a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .dataset import print_skipped
from .field_options import FieldCommand, FieldGroup, given
from .prompt import ImageTokenizer, Model, Processor
from .terminal import echo, print_message

if TYPE_CHECKING:
    from ..training_job import TrainedModel
    from ..training_job.record import Job

SOURCES_HELP = (
    "Folders of pictures, files of captions (.jsonl, .csv), folders of save_to_disk, WebDataset tar shards or parquet "
    "files."
)
Sources = Annotated[list[Path], typer.Argument(metavar="SOURCES", help=SOURCES_HELP, exists=True)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The folder of the job.", file_okay=False)]
Template = Annotated[
    str | None,
    typer.Option(
        help="The format of documents: completion, or one of turns such as chat, of which the answer is learned; by "
        "default chat to fine-tune and completion for a new model."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the job in the folder. Its options needn't be given again.")
]
Device = Annotated[str, typer.Option(help="Device to train on, such as cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that encode pictures; by default one for each processor, 0 for none."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(cls=FinetuneCommand, no_args_is_help=True)(finetune)
    app.command(cls=TrainCommand, no_args_is_help=True)(train)


OF_BOTH = {"steps": "those of the epochs", "sequence_length": "the model's context, at most 4,096"}
OF_FINETUNING = {
    "batch_size": "128, at most the number of documents",
    "learning_rate": "1e-5",
    "warmup_steps": "0",
    "schedule": '"cosine"',
    "dropout": "0.05",
}
OF_PRETRAINING = {
    "batch_size": "64, at most the number of documents",
    "warmup_steps": "a tenth of the steps, at most 4,000",
}
"""What ``training_options`` takes where an option isn't given."""


def _groups(recipe: Mapping[str, str] = OF_FINETUNING) -> tuple[FieldGroup, ...]:
    from ..tokenization import TokenizationOptions
    from ..training import TrainingOptions
    from ..training_job import JobOptions

    return (
        FieldGroup(JobOptions, "Job"),
        FieldGroup(TokenizationOptions, "Documents", names=("order", "picture_field", "caption_field", "max_length")),
        # Ranks that divide layers are processes of torchrun, and a job is one process.
        FieldGroup(TrainingOptions, "Training", omitted=("tensor_parallel",), defaults={**OF_BOTH, **recipe}),
    )


def _groups_of_new_models() -> tuple[FieldGroup, ...]:
    from ..config import ChameleonConfig
    from ..training_job import NewModelOptions
    from ..training_job.new_model import SHAPE_FIELDS

    heads = {"num_key_value_heads": "num_attention_heads"}
    shape = FieldGroup(ChameleonConfig, "Architecture", names=SHAPE_FIELDS, defaults=heads)
    return (*_groups(OF_PRETRAINING), FieldGroup(NewModelOptions, "Tokenizers"), shape)


class FinetuneCommand(FieldCommand):
    """The command with the options of a job, of its documents and of training."""

    groups = staticmethod(_groups)


class TrainCommand(FieldCommand):
    """The command with the options of new models, too."""

    groups = staticmethod(_groups_of_new_models)


def finetune(
    ctx: typer.Context,
    model: Model,
    sources: Sources,
    output: Output,
    template: Template = None,
    resume: Resume = False,
    device: Device = "cpu",
    workers: Workers = None,
    image_tokenizer: ImageTokenizer = None,
    processor: Processor = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on pictures with captions: all weights, or LoRA adapters with --lora.

    The pictures are encoded first, those that can't be read are listed in work/tokens/refused.jsonl. At the end the
    model, its curves, samples of held-out documents and results.json are in the folder.
    """
    from ..training_job.record import Job, absolute, read_job

    if resume:
        job = read_job(output)
        job = dataclasses.replace(
            job,
            model=absolute(model),
            image_tokenizer=job.image_tokenizer if image_tokenizer is None else absolute(image_tokenizer),
            processor=job.processor if processor is None else absolute(processor),
        )
    else:
        job = Job(
            model=absolute(model),
            image_tokenizer=None if image_tokenizer is None else absolute(image_tokenizer),
            processor=None if processor is None else absolute(processor),
        )
    _run(ctx, job, sources, output, template or (None if resume else "chat"), resume, device, workers, as_json=as_json)


def train(
    ctx: typer.Context,
    sources: Sources,
    output: Output,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with fields of the architecture; options replace them.", exists=True, dir_okay=False
        ),
    ] = None,
    template: Template = None,
    resume: Resume = False,
    device: Device = "cpu",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Train a new model on pictures with captions, with an image tokenizer that there is.

    The text tokenizer is trained on the captions unless --text-tokenizer is given. What is written is as by finetune.
    """
    from ..config import ChameleonConfig
    from ..training_job import NewModelOptions
    from ..training_job.new_model import SHAPE_FIELDS
    from ..training_job.record import Job, absolute, read_job

    fields = given(ctx, NewModelOptions)
    for name in ("image_tokenizer", "text_tokenizer"):
        if name in fields:
            fields[name] = absolute(fields[name])
    if resume:
        job = read_job(output)
        if job.new is None or job.config is None:
            raise typer.BadParameter(f"{output} has a job of chameleon finetune, which continues it.")
        new, shape = job.new.replace(**fields), {name: getattr(job.config, name) for name in SHAPE_FIELDS}
    else:
        job, new, shape = Job(), NewModelOptions(**fields), {}
    shape |= ({} if config is None else _read_shape(config)) | given(ctx, ChameleonConfig)
    if "num_attention_heads" in shape:
        shape.setdefault("num_key_value_heads", shape["num_attention_heads"])
    job = dataclasses.replace(job, new=new, config=ChameleonConfig(**shape))
    _run(ctx, job, sources, output, template, resume, device, workers, as_json=as_json)


def _read_shape(path: Path) -> dict[str, Any]:
    """Return the fields of a file. Raises ``ConfigError`` where they aren't those of an architecture."""
    from .._files import read_json
    from ..errors import ConfigError
    from ..training_job.new_model import SHAPE_FIELDS

    fields = read_json(path)
    unknown = sorted(set(fields) - set(SHAPE_FIELDS))
    if unknown:
        raise ConfigError(
            f"{path} has {', '.join(map(ascii, unknown))}, which aren't fields of an architecture. Expected fields "
            f"among {', '.join(SHAPE_FIELDS)}; the tokenizers determine the others."
        )
    return fields


def _run(
    ctx: typer.Context,
    job: Job,
    sources: Sequence[Path],
    output: Path,
    template: str | None,
    resume: bool,
    device: str,
    workers: int | None,
    *,
    as_json: bool,
) -> None:
    from ..tokenization import TokenizationOptions
    from ..training import TrainingOptions
    from ..training_job import JobOptions
    from ..training_job.job import run_job

    changes = given(ctx, TokenizationOptions) | ({} if template is None else {"template": template})
    job = dataclasses.replace(
        job,
        options=job.options.replace(**given(ctx, JobOptions)),
        tokenization=job.tokenization.replace(**changes),
        training={**job.training, **given(ctx, TrainingOptions)},
    )
    try:
        with _units_bar() as on_unit:
            done = run_job(
                job,
                sources,
                output,
                resume=resume,
                device=device,
                workers=workers,
                on_unit=on_unit,
                show_progress=True,
            )
    except (KeyboardInterrupt, SystemExit):
        print_message(
            "stopped, and saved if a step was done: the same command with --resume continues.", style="bold red"
        )
        raise
    _report(done, output, as_json=as_json)


@contextlib.contextmanager
def _units_bar() -> Iterator[Any]:
    """Show how many units of work are tokenized, until all are and training shows a bar of its own."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("encoding pictures, units of work", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if done == total:
                progress.stop()

        yield advance


def _report(done: TrainedModel, output: Path, *, as_json: bool) -> None:
    print_skipped(done.skipped)
    if done.refused:
        print_message(
            f"{done.refused:,} samples were refused; {output / 'work' / 'tokens' / 'refused.jsonl'} says why.",
            style="yellow",
        )
    if not done.finished:
        print_message(
            "the time is over, and the step is saved: the same command with --resume continues.", style="yellow"
        )
    if as_json:
        fields = dataclasses.asdict(done)
        folders = {name: None if fields[name] is None else str(fields[name]) for name in ("model", "adapter")}
        echo(json.dumps({**fields, **folders}, indent=2))
        return
    losses = ", ".join(
        f"{name.replace('_', ' ')} {done.losses[name]:.3f}" for name in ("loss", "held_out_loss") if name in done.losses
    )
    where = " and ".join(str(folder) for folder in (done.model, done.adapter) if folder is not None) or str(output)
    echo(f"{where}: {done.documents:,} documents, {done.steps:,} steps, {losses or 'nothing logged'}")
