"""Pre-train the transformer: ``python -m recipes.emoji.train_transformer``.

It learns from streams of captions and pictures. Before that it makes the vocabulary and encodes every planned picture
with the image tokenizer once. Every stage resumes where it was interrupted. It writes into its folder
``tokenizer.json``, ``codes/``, the run (``log.jsonl``, ``checkpoint/``, ``curves.png``) and, when it has finished,
``model/``.

``--minutes`` determines the number of steps of a new run, by timing a few of them first; ``--steps`` sets it, to repeat
a run on another machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from chameleon_core import Chameleon, ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.evaluation.embedded_requests import ONE_WORD
from chameleon_core.training import TokenDataset, TokenDocument, Trainer, TrainingOptions
from chameleon_text import ChameleonProcessor, TextTokenizer
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

from .compositions import (
    Painter,
    PlanSize,
    encode,
    is_taught,
    learned,
    only_named,
    plan,
    plan_redrawn,
    plan_requests,
)
from .documents import DocumentWriter, EmojiDocuments, Form, held_out_documents
from .pictures import DATA, SIDE, PictureSet
from .prompts import WHICH_STYLE, Composition, every_sentence
from .vocabulary import make_vocabulary

RUN = Path("build/emoji/transformer")
TOKENIZER = Path("build/emoji/tokenizer/tokenizer")
CONTEXT = 256
MINUTES = 75.0
MEASURED_STEPS = 6
RESERVE = 0.92
"""The share of the time for the steps; the rest is for measuring and saving."""

ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": CONTEXT,
}
"""4.3 million parameters with 4,900 ids. qk-norm is on, as published."""

OPTIONS: dict[str, Any] = {
    # A quarter of what is usual at this rate, for four times as many steps in the same time.
    "batch_size": 16,
    # The published 1e-4 is for 7 billion parameters; small models take, and in two hours need, twenty times as much.
    "learning_rate": 2e-3,
    "warmup_steps": 200,
    "schedule": "cosine",
    "epsilon": 1e-8,
    # A drawing has ten times the ids of a caption: with equal weights, captions are hardly learned.
    "picture_weight": 0.1,
    # Drawings should be memorised, and pictures to be named are seldom the same twice.
    "dropout": 0.0,
    "sequence_length": CONTEXT,
    "micro_batch_size": 8,
    "save_every": 100,
    "log_every": 10,
    "evaluate_every": 500,
}

SMOKE_SIZE = PlanSize(variants=2, views=2, grounds=1, recoloured=1, scenes=20, shape_variants=2)
SMOKE_PICTURES = 30
SMOKE_ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
SMOKE_OPTIONS: dict[str, Any] = {
    **OPTIONS,
    "batch_size": 4,
    "micro_batch_size": 4,
    "warmup_steps": 1,
    "log_every": 1,
    "evaluate_every": 0,
}


@dataclass(frozen=True)
class Data:
    """What both stages of training share: planned pictures, their codes and the vocabulary."""

    image_tokenizer: ImageTokenizer
    tokenizer: TextTokenizer
    planned: list[Composition]
    withheld: list[Composition]
    """Pictures of known things in a withheld style, for measurement only."""
    store: TokenDataset

    def documents(self, form: Form, *, length: int, seed: int) -> EmojiDocuments:
        """Return the training documents."""
        return EmojiDocuments(self.planned, self.writer, form=form, length=length, seed=seed)

    def held_out(self, form: Form) -> list[TokenDocument]:
        """Return the documents that are measured during training."""
        return held_out_documents(self.withheld, self.writer, form=form)

    @property
    def writer(self) -> DocumentWriter:
        """A writer of documents of these codes."""
        return DocumentWriter(self.store, self.tokenizer)


def prepare(
    folder: Path,
    pictures: PictureSet,
    image_tokenizer: ImageTokenizer,
    size: PlanSize | None = None,
    *,
    form: Form = "pretraining",
) -> Data:
    """Plan the pictures, encode those that aren't encoded yet, and make the vocabulary; all in ``folder``.

    ``form`` determines the plan; the vocabulary is always that of the pre-training.
    """
    known = learned(pictures)
    planned = plan(known, size)
    names = {record.name for record in known.records}
    unseen = pictures.where(lambda picture: picture.split == "withheld-style" and picture.name in names)
    withheld = [Composition(record.style, record.name, record.group) for record in unseen.records]
    store = encode(folder / "codes", planned, Painter(known), image_tokenizer)
    store = encode(folder / "codes", withheld, Painter(unseen), image_tokenizer)
    path = folder / "tokenizer.json"
    if not path.exists():
        make_vocabulary(sentences(planned), num_codes=image_tokenizer.num_codes).save(path)
    if form != "pretraining":
        planned = [shown for shown in planned if shown.ground is shown.colour is shown.arrangement is None]
        more = plan_requests(known) + plan_redrawn(known, size)
        store = encode(folder / "codes", more, Painter(known), image_tokenizer)
        named = only_named(pictures)
        by_another = plan_redrawn(named, size)
        store = encode(folder / "codes", by_another, Painter(named), image_tokenizer)
        planned += more + by_another
    return Data(image_tokenizer, TextTokenizer.from_file(path), planned, withheld, store)


def sentences(planned: Iterable[Composition]) -> set[str]:
    """Return every sentence about the pictures once; sentences of scenes only repeat those of their parts."""
    said = {sentence for shown in planned if shown.arrangement is None for sentence in every_sentence(shown)}
    return said | {ONE_WORD, WHICH_STYLE, "a cat left of a dog", "a cat above a dog", "here is a cat", " and a dog"}


def new_chameleon(data: Data, architecture: dict[str, Any] | None = None, *, seed: int = 0) -> Chameleon:
    """Return the untrained model with its processor and image tokenizer."""
    processor = ChameleonProcessor(data.tokenizer, image_tokenizer=data.image_tokenizer)
    config = ChameleonConfig(
        vocab_size=len(data.tokenizer),
        vocabulary_map=data.tokenizer.token_ids,
        vq_config=data.image_tokenizer.config_dict(),
        bos_token_id=processor.vocabulary.bos_id,
        eos_token_id=processor.vocabulary.eos_id,
        pad_token_id=processor.vocabulary.pad_id,
        **(architecture or ARCHITECTURE),
    )
    torch.manual_seed(seed)
    model = ChameleonForConditionalGeneration(config)
    initialize_picture_rows(model, data.image_tokenizer)
    return Chameleon(model, processor)


@torch.no_grad()
def initialize_picture_rows(model: ChameleonForConditionalGeneration, image_tokenizer: ImageTokenizer) -> None:
    """Initialise embeddings and output rows so that codes that look alike have similar ones.

    Each is the code's vector, projected at random to the hidden width and scaled to the initializer's range.

    Shapes: Z codes, D their vectors' width, V vocabulary, E hidden width.
    """
    codes_Z11 = torch.arange(image_tokenizer.num_codes)[:, None, None]
    vectors_ZD = image_tokenizer.model.quantize.lookup(codes_Z11).float()[:, :, 0, 0]
    vectors_ZD = vectors_ZD - vectors_ZD.mean(dim=0)
    for weight_VE in (model.get_input_embeddings().weight, model.lm_head.weight):
        projected_ZE = vectors_ZD @ torch.randn(vectors_ZD.shape[1], weight_VE.shape[1])
        weight_VE[model.layout.code_to_id_Z] = projected_ZE * (model.config.initializer_range / projected_ZE.std())


def fit(
    chameleon: Chameleon,
    data: Data,
    options: TrainingOptions,
    folder: Path,
    *,
    form: Form,
    show_progress: bool = True,
) -> bool:
    """Train or continue training; after the last step, write the model to ``folder/model`` and return True."""
    documents = data.documents(form, length=options.steps * options.batch_size, seed=options.seed)
    trainer = Trainer(chameleon.model, documents, options, folder, held_out=data.held_out(form) or None)
    finished = trainer.run(show_progress=show_progress).finished
    if finished:
        chameleon.model.eval()
        chameleon.save_pretrained(folder / "model")
    return finished


def steps_within(minutes: float, chameleon: Chameleon, data: Data, options: TrainingOptions, *, form: Form) -> int:
    """Return how many steps take ``minutes`` on this machine, by timing a few on a copy of the model."""
    documents = data.documents(form, length=MEASURED_STEPS * options.batch_size, seed=options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(copy.deepcopy(chameleon.model).train(), documents, options, scratch)
        reports = [trainer.step(step) for step in range(MEASURED_STEPS)]
    # The first is slower.
    seconds = statistics.median(report.seconds for report in reports[1:])
    return max(1, int(RESERVE * minutes * 60 / seconds))


def options_of_run(folder: Path) -> TrainingOptions | None:
    """Return the options of the run in a folder, to continue it; None if there is none."""
    path = folder / "run.json"
    if not path.exists():
        return None
    return TrainingOptions.from_dict(json.loads(path.read_text(encoding="utf-8"))["options"], source=str(path))


def train(
    folder: Path,
    data_folder: Path,
    tokenizer: Path,
    *,
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 0,
    smoke: bool = False,
    prepare_only: bool = False,
) -> bool:
    """Run the stage, preparation included; return True when the run has finished."""
    began = time.monotonic()
    pictures = PictureSet.load(data_folder)
    if smoke:
        pictures, image_tokenizer = smoke_pictures(pictures), random_image_tokenizer()
    else:
        image_tokenizer = ImageTokenizer.from_pretrained(tokenizer)
    data = prepare(folder, pictures, image_tokenizer, SMOKE_SIZE if smoke else None)
    if prepare_only:
        return False
    minutes = minutes_left(minutes, began)
    chameleon = new_chameleon(data, SMOKE_ARCHITECTURE if smoke else ARCHITECTURE, seed=seed)
    base = TrainingOptions.pretraining(steps=10**6, seed=seed, **(SMOKE_OPTIONS if smoke else OPTIONS))
    return run_stage(chameleon, data, base, folder, form="pretraining", minutes=minutes, steps=steps)


def minutes_left(minutes: float, began: float) -> float:
    """Return the minutes left of a stage whose preparation ``began`` at that time; at least half of ``minutes``."""
    return max(minutes / 2, minutes - (time.monotonic() - began) / 60)


def run_stage(
    chameleon: Chameleon,
    data: Data,
    base: TrainingOptions,
    folder: Path,
    *,
    form: Form,
    minutes: float,
    steps: int | None,
) -> bool:
    """Determine the number of steps, or take that of an existing run, and train for at most ``minutes``."""
    console = Console()
    options = options_of_run(folder)
    if options is None or steps is not None:
        steps = steps or steps_within(minutes, chameleon, data, base, form=form)
        options = base.replace(steps=steps, warmup_steps=min(base.warmup_steps, steps // 4))
    console.print(f"{len(data.planned):,} pictures, {options.steps:,} steps of {options.batch_size} documents")
    finished = fit(chameleon, data, options.replace(max_seconds=60 * minutes), folder, form=form)
    if not finished:
        console.print("The time ended before the last step. Run the same command to continue.")
    return finished


def smoke_pictures(pictures: PictureSet) -> PictureSet:
    """Return a few drawings of each kind, to try the whole stage quickly."""
    counts: dict[str, int] = {}
    kept = set()
    for record in pictures.records:
        wanted = record.core and is_taught(record.name)
        counts[record.split] = counts.get(record.split, 0) + wanted
        if wanted and counts[record.split] <= SMOKE_PICTURES:
            kept.add((record.style, record.name))
    return pictures.where(lambda picture: (picture.style, picture.name) in kept)


def random_image_tokenizer(num_codes: int = 4096) -> ImageTokenizer:
    """Return an untrained image tokenizer of the right shape: 64×64 pixels to 8×8 codes."""
    config = ChameleonVQVAEConfig(
        resolution=SIDE,
        base_channels=32,
        channel_multiplier=(1, 1, 1, 1),
        num_res_blocks=1,
        latent_channels=16,
        embed_dim=8,
        num_embeddings=num_codes,
        attn_type="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ChameleonVQVAE(config)
    return ImageTokenizer(model, ChameleonImageProcessor.meta(SIDE))


def arguments_of(stage: str, description: str, run: Path, minutes: float) -> argparse.ArgumentParser:
    """Return a parser of the arguments of both training stages."""
    parser = argparse.ArgumentParser(prog=f"python -m recipes.emoji.{stage}", description=description)
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="the image tokenizer (%(default)s)")
    parser.add_argument("--run", type=Path, default=run, help="the folder of the run (%(default)s)")
    parser.add_argument("--minutes", type=float, default=minutes, help="the most minutes (%(default)s)")
    parser.add_argument("--steps", type=int, help="the number of steps (default: as many as the minutes allow)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of weights, documents and dropout (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="run once, tiny and untrained; needs only the data")
    return parser


def main() -> None:
    """Run the command."""
    summary = (__doc__ or "").splitlines()[0]
    parser = arguments_of("train_transformer", summary, RUN, MINUTES)
    parser.add_argument("--prepare", action="store_true", help="only encode the pictures and make the vocabulary")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        Path(f"{arguments.run}-smoke") if arguments.smoke else arguments.run,
        arguments.data,
        arguments.tokenizer,
        minutes=arguments.minutes,
        steps=20 if arguments.smoke and arguments.steps is None else arguments.steps,
        seed=arguments.seed,
        smoke=arguments.smoke,
        prepare_only=arguments.prepare,
    )


if __name__ == "__main__":
    main()
