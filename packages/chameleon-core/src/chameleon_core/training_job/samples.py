"""What a trained model makes of held-out documents: their captions drawn, and their pictures captioned."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._files import replacing, write_json, writing
from ..errors import ChameleonCoreError
from ..optional_packages import text_package
from ..pipeline import Chameleon
from ..tokenization import TokenizationOptions
from ..training.data import TokenDocument
from ..training.errors import requires_extra

SAMPLES_FILE = "samples.json"
SHEET_FILE = "samples.png"
DRAWN = ("mixed", "caption-first", "picture-only")
"""The orders of documents by which a model learns to draw."""
CAPTIONED = ("mixed", "picture-first")
"""Those by which it learns captions."""
_MOST_IDS = 64
_WRAPPED = 40


def write_samples(
    chameleon: Chameleon,
    documents: Sequence[TokenDocument],
    folder: Path,
    *,
    tokenization: TokenizationOptions,
    seed: int,
) -> None:
    """Write ``samples.json``, the pictures and a sheet of them: what the model draws, and the captions that it writes.

    Pictures are sampled with the seed, captions are the likeliest ids. What can't be made, as a drawing by a model
    without a decoder can't, has its reason in the file.
    """
    samples = [_sample(chameleon, document, tokenization, seed) for document in documents]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for number, (entry, pictures) in enumerate(samples, start=1):
            for kind, picture in pictures.items():
                entry[kind] = f"{kind}-{number}.png"
                with replacing(folder / entry[kind]) as temporary:
                    picture.save(temporary, format="PNG")
            entries.append(entry)
        write_json(folder / SAMPLES_FILE, {"samples": entries})
    _write_sheet(folder / SHEET_FILE, samples)


def _sample(
    chameleon: Chameleon, document: TokenDocument, tokenization: TokenizationOptions, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what there is to say of a document, and its picture and the drawing."""
    text = text_package()
    segments = chameleon.processor.decode_document(document.ids.tolist())
    caption = next((each.text for each in segments if isinstance(each, text.Text)), "")
    picture = next(each for each in segments if isinstance(each, text.Image))
    entry: dict[str, Any] = {"key": document.key, "caption": caption, "written": None, "problems": []}
    pictures = {}
    template = tokenization.template
    try:
        if tokenization.order in CAPTIONED:
            entry["written"] = _captioned(chameleon, picture, template)
        (drawn,) = chameleon.processor.draw([picture])
        pictures["picture"] = drawn.image
        if tokenization.order in DRAWN:
            prompt = [] if tokenization.order == "picture-only" else [caption]
            written = chameleon.generate(prompt, modality="image", template=template, do_sample=True, seed=seed)
            pictures["drawing"] = next(each.image for each in written if isinstance(each, text.Image))
    except ChameleonCoreError as error:
        entry["problems"].append(str(error))
    return entry, pictures


def _captioned(chameleon: Chameleon, picture: Any, template: str) -> str:
    """Return the likeliest caption of a picture."""
    room = chameleon.model.config.context_length - len(chameleon.processor.encode([picture], template=template))
    most = min(_MOST_IDS, max(1, room - 1))
    written = chameleon.generate([picture], modality="text", max_new_tokens=most, template=template)
    return "".join(each.text for each in written if isinstance(each, text_package().Text))


def _write_sheet(path: Path, samples: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    with requires_extra("a sheet of samples"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 3.2 * len(samples)), layout="constrained")
    grid = figure.subplots(len(samples), 2, squeeze=False)
    for (entry, pictures), row in zip(samples, grid, strict=True):
        titles = {"picture": entry["written"], "drawing": entry["caption"]}
        for axes, (kind, words) in zip(row, titles.items(), strict=True):
            axes.axis("off")
            title = kind if words is None else f"{kind}\n{words:.{_WRAPPED}}"
            axes.set_title(title, fontsize="small", parse_math=False)
            if kind in pictures:
                axes.imshow(pictures[kind])
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")  # of characters that the font doesn't have
        figure.savefig(temporary, format="png", dpi=100)
