"""Captions and drawings beside references: what people wrote of a picture, and pictures of what was requested."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import FileFormatError
from ..generation import GenerationOptions
from ..optional_packages import text_package, vq_package
from ..pipeline import Chameleon
from ..tokenization.options import TokenizationOptions
from ..tokenization.samples import read_samples
from ..tokenization.units import find_units
from .cider import cider_d
from .picture_quality import Progress
from .results import CaptionFigures, DrawingFigures

ROWS = 16
"""How many prompts are continued together."""
NEAR_DB = 20.0
"""From which PSNR on, in dB, a drawing counts as near its reference."""
EXAMPLES = 12


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture with its references."""

    picture: Any
    """The file, a PIL image, or a uint8 array."""
    captions: tuple[str, ...]
    """What people wrote of it, at least one."""


def read_captioned(source: str | os.PathLike[str], *, limit: int | None = None) -> list[Captioned]:
    """Return the pictures with captions of a folder, a tar shard or a parquet file, as a data set has them.

    Each line of a caption is a reference of its own. Raises ``FileFormatError`` where a picture has no caption, and
    ``MissingFileError`` where there is no such source.
    """
    options = TokenizationOptions(order="caption-first")
    found: list[Captioned] = []
    for unit in find_units([source], options).units:
        for sample in read_samples(unit, options):
            if sample.problem is not None:
                raise FileFormatError(f"{source}: {sample.key}: {sample.problem}")
            captions = tuple(line.strip() for line in (sample.caption or "").splitlines() if line.strip())
            found.append(Captioned(_opened(sample.picture, sample.key), captions))
            if limit is not None and len(found) == limit:
                return found
    return found


def _opened(picture: Path | bytes, name: str) -> Any:
    if isinstance(picture, Path):
        return picture
    vq = vq_package()
    return vq.picture_files.open_data(picture, name, pixel_limit=vq.pictures.MAX_PIXELS, exif=True)


def measure_captions(
    chameleon: Chameleon,
    captioned: Sequence[Captioned],
    name: str,
    *,
    question: str,
    template: str = "chat",
    max_new_tokens: int = 64,
    progress: Progress = lambda what, done, total: None,
) -> CaptionFigures:
    """Ask about each picture, and compare the likeliest answers with the references."""
    answers: list[str] = []
    for start in range(0, len(captioned), ROWS):
        part = captioned[start : start + ROWS]
        documents = chameleon.generate_batch(
            [[each.picture, question] for each in part],
            modality="text",
            template=template,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        answers += map(text_of, documents)
        progress(f"captioning {name}", len(answers), len(captioned))
    references = [each.captions for each in captioned]
    exact = [_plain(answer) in map(_plain, of_picture) for answer, of_picture in zip(answers, references, strict=True)]
    ciders = cider_d(answers, references)
    return CaptionFigures(
        name=name,
        pictures=len(captioned),
        exact=sum(exact) / len(exact),
        cider_d=sum(ciders) / len(ciders) if len(ciders) > 1 else None,
        examples=tuple((each.captions[0], answer) for each, answer in zip(captioned, answers, strict=True))[:EXAMPLES],
    )


def measure_drawings(
    chameleon: Chameleon,
    captioned: Sequence[Captioned],
    name: str,
    *,
    seed: int = 0,
    template: str = "chat",
    options: GenerationOptions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> DrawingFigures:
    """Draw the first caption of each picture, and compare the drawings with the pictures, as the tokenizer sees them.

    Raises ``MissingPackageError`` without scikit-image.
    """
    from chameleon_vq.training import compare

    options = (options or chameleon.model.generation_options).replace(seed=seed, modality="image")
    rows: list[tuple[float, float]] = []
    for start in range(0, len(captioned), ROWS):
        part = captioned[start : start + ROWS]
        prompts = [each.captions[0] for each in part]
        documents = chameleon.generate_batch(prompts, template=template, options=options)
        for each, document in zip(part, documents, strict=True):
            drawn = picture_of(document).convert("RGB")
            (reference,) = chameleon.image_tokenizer.crop([each.picture])  # type: ignore[attr-defined]
            rows += compare(*(_levels(picture.resize(drawn.size)) for picture in (reference, drawn)))
        progress(f"drawing {name}", len(rows), len(captioned))
    return DrawingFigures(
        name=name,
        drawings=len(rows),
        psnr=sum(psnr for psnr, _ in rows) / len(rows),
        ssim=sum(ssim for _, ssim in rows) / len(rows),
        near=sum(psnr > NEAR_DB for psnr, _ in rows) / len(rows),
    )


def text_of(document: Any) -> str:
    """Return the text of a document, without spaces around it."""
    return "".join(each.text for each in document if isinstance(each, text_package().Text)).strip()


def picture_of(document: Any) -> Any:
    """Return the first picture of a document."""
    return next(each.image for each in document if isinstance(each, text_package().Image))


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split()).rstrip(".")


def _levels(picture: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
