"""Evaluate a model: each part that was requested, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .._boundary import translates_errors
from .._files import check_is_file
from ..checkpoints import resolve_folder
from ..errors import ConfigError, FileFormatError, MissingPackageError
from ..optional_packages import emoji_package, text_package, vq_package
from ..pipeline import Chameleon
from .options import EvaluationOptions
from .picture_quality import Distance, Features, Progress, measure_pictures
from .references import measure_captions, measure_drawings, read_captioned
from .results import Evaluation
from .text_quality import measure_text, name_of, read_text
from .variants import chosen_variants, compare_variants

QUICK_PICTURES = 50
SPLITS = {
    "withheld-style": "things in a withheld style",
    "withheld-shape": "withheld colours and shapes",
    "train": "trained on",
}
"""The parts of the embedded model's pictures, and what they are called."""


@translates_errors
def evaluate(
    model: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    image_tokenizer: str | None = None,
    distance: Distance | None = None,
    features: Features | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Measure a model, a folder or a name, on what the options name, and compare its backends and quantizers.

    Of the embedded model, without any source in the options, the image tokenizer is measured on the pictures that it
    ships, and the model card's figures are measured again that need no training data. ``distance`` and ``features`` are
    functions with weights of the caller's, for LPIPS and rFID. ``progress`` is called with what is measured, and how
    much of it is done.

    Raises ``ConfigError`` where there is nothing to measure, the errors of files and folders for sources that can't be
    read, and ``MissingPackageError``. Files are checked before the model is loaded.
    """
    options = options or EvaluationOptions()
    started = time.perf_counter()
    folder = resolve_folder(model)
    sources = (options.pictures, options.text, options.captions, options.drawings)
    embedded = is_embedded(folder) and not any(sources)
    if not embedded and not any(sources) and not options.variants:
        raise ConfigError("there is nothing to evaluate: give pictures, a text, captions or drawings, or variants.")
    _check_used(options, embedded, distance is not None or features is not None)
    chosen_variants(options.only)
    text = None if options.text is None else read_text(options.text)
    pictures = None if options.pictures is None else read_pictures(options.pictures, options.limit)
    captions, drawings = (
        None if source is None else read_captioned(source, limit=options.limit)
        for source in (options.captions, options.drawings)
    )
    progress("loading the model", 0, 1)
    chameleon = Chameleon.from_pretrained(folder, dtype=dtype, device=device, image_tokenizer=image_tokenizer)
    given: dict[str, Any] = {"distance": distance, "features": features, "progress": progress}
    sets: list[tuple[str, Sequence[Any]]] = []
    if embedded:
        sets = _embedded_pictures(options.quick)
    elif pictures is not None:
        sets = [(name_of(options.pictures or ""), pictures)]
    measured = [measure_pictures(chameleon.image_tokenizer, part, name, **given) for name, part in sets]
    texts = []
    if text is not None:
        name = name_of(options.text or "")
        texts = [measure_text(chameleon, text, name, max_ids=options.max_ids, progress=progress)]
    named, drawn = [], []
    if captions is not None:
        name, question = name_of(options.captions or ""), options.question
        named = [
            measure_captions(chameleon, captions, name, question=question, template=options.template, progress=progress)
        ]
    if drawings is not None:
        name = name_of(options.drawings or "")
        drawn = [
            measure_drawings(chameleon, drawings, name, seed=options.seed, template=options.template, progress=progress)
        ]
    variants = []
    if options.variants:
        rows = _rows(chameleon, options, text, captions or drawings, embedded)
        variants = compare_variants(folder, rows, dtype=dtype, device=device, names=options.only, progress=progress)
    card = _card(chameleon, options.quick, progress) if embedded else []
    return Evaluation(
        model=str(model),
        machine=_machine(chameleon, device),
        seconds=time.perf_counter() - started,
        pictures=tuple(measured),
        text=tuple(texts),
        captions=tuple(named),
        drawings=tuple(drawn),
        variants=tuple(variants),
        card=tuple(card),
    )


def _check_used(options: EvaluationOptions, embedded: bool, has_functions: bool) -> None:
    """Raise ``ConfigError`` for what would have no effect."""
    default = EvaluationOptions()
    asks, draws = options.captions is not None, options.drawings is not None
    unused = {
        "a perceptual distance or features": has_functions and not (embedded or options.pictures),
        "limit": options.limit is not None and not (options.pictures or asks or draws),
        "max_ids": options.max_ids is not None and options.text is None,
        "question": options.question != default.question and not asks,
        "template": options.template != default.template and not (asks or draws),
        "only": options.only is not None and not options.variants,
        "quick": options.quick and not embedded,
    }
    needs = {
        "a perceptual distance or features": "pictures",
        "limit": "pictures, captions or drawings",
        "max_ids": "a text",
        "question": "captions",
        "template": "captions or drawings",
        "only": "variants",
        "quick": "the embedded model without a source",
    }
    for name, is_unused in unused.items():
        if is_unused:
            raise ConfigError(
                f"{name} would have no effect: it is of {needs[name]}. Give it with them, or leave it out."
            )


def is_embedded(folder: Path) -> bool:
    """Return whether a folder is that of the embedded model."""
    try:
        embedded = Path(emoji_package().MODEL)
    except MissingPackageError:
        return False
    return folder.resolve() == embedded.resolve()


def read_pictures(folder: str, limit: int | None) -> list[Path]:
    """Return the picture files of a folder, sorted. Raises ``FileFormatError`` where it has none."""
    found = list(vq_package().pictures.pictures_in(folder, on_skip=lambda path, why: None))
    if not found:
        raise FileFormatError(f"{folder} has no picture files; expected a folder with pictures such as PNG or JPEG.")
    for path in found[:limit]:
        check_is_file(path)
    return found[:limit]


def _embedded_pictures(quick: bool) -> list[tuple[str, Sequence[Any]]]:
    pictures = emoji_package().pictures()
    sets: list[tuple[str, Sequence[Any]]] = []
    for split, name in SPLITS.items():
        images = [each.image for each in pictures if each.split == split]
        sets.append((name, images[:: max(1, len(images) // QUICK_PICTURES)] if quick else images))
    return sets


def _card(chameleon: Chameleon, quick: bool, progress: Progress) -> list[Any]:
    from .embedded import measure_card

    emoji = emoji_package()
    return measure_card(chameleon, emoji.pictures(), emoji.figures(), drawings=not quick, progress=progress)


def _rows(
    chameleon: Chameleon, options: EvaluationOptions, text: str | None, captioned: Any, embedded: bool
) -> list[list[int]]:
    """Return rows of ids to compare predictions on: of what is measured, else of drawn ids."""
    documents: list[list[Any]] = []
    if embedded:
        pictures = [each for each in emoji_package().pictures() if each.split == "withheld-style"]
        documents = [[each.image, f"a {each.style} drawing of a {each.name}"] for each in pictures]
    elif captioned:
        documents = [[each.picture, each.captions[0]] for each in captioned]
    elif text is not None:
        documents = [[text]]
    rows: list[list[int]] = []
    limit = chameleon.model.config.context_length
    # Half of them with the picture first, half with the text.
    for number, document in enumerate(documents):
        ids = _encoded(chameleon, document[:: -1 if number % 2 else 1])
        rows.append(ids[: min(limit, options.positions - sum(map(len, rows)))])
        if sum(map(len, rows)) >= options.positions:
            return rows
    if rows:
        return rows
    length = min(options.positions, limit)
    generator = torch.Generator().manual_seed(options.seed)
    special = {chameleon.layout.bos_id, chameleon.layout.eos_id, chameleon.layout.pad_id}
    drawn = torch.randint(chameleon.model.config.vocab_size, (4 * length,), generator=generator).tolist()
    return [[chameleon.layout.bos_id, *(each for each in drawn if each not in special)][:length]]


def _encoded(chameleon: Chameleon, parts: Sequence[Any]) -> list[int]:
    document = text_package().as_document(list(parts))
    return list(chameleon.processor.encode(document, template="completion"))


def _machine(chameleon: Chameleon, device: str) -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "device": device,
        "dtype": str(chameleon.model.dtype).removeprefix("torch."),
    }
