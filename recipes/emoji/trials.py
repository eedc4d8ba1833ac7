"""Trials of the trained model: questions and requests through ``Chameleon``, and the shares that come out right.

Shapes: B pictures, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from chameleon_core import Chameleon, GenerationOptions
from chameleon_core.evaluation.embedded import ROWS
from chameleon_text import Image as ImageSegment
from chameleon_text import Text

from .classifier import Judge
from .compositions import learned
from .pictures import SIDE, PictureSet

DRAWING = GenerationOptions(do_sample=True, temperature=0.4, top_p=0.9, guidance_text=1.5)
"""How the embedded model draws by default."""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """One figure: a share of ``count`` trials in 0…1, and the baseline to compare it with."""

    name: str
    value: float
    count: int
    baseline: float | None = None
    against: str = ""
    """What the baseline is."""


@dataclass(frozen=True)
class Subject:
    """The model that is measured, the classifier that judges it, and the pictures."""

    chameleon: Chameleon
    judge: Judge
    pictures: PictureSet
    options: GenerationOptions
    """How pictures are drawn; captions are the likeliest ids."""

    @property
    def known(self) -> PictureSet:
        """The drawings that the model learned from."""
        return learned(self.pictures)

    def ask(self, pictures: Sequence[Any], question: str) -> list[str]:
        """Return the likeliest answer to a question about each picture."""
        answers: list[str] = []
        for part in _parts(pictures, f"asking {question!r}"):
            rows = [[picture, question] for picture in part]
            documents = self.chameleon.generate_batch(
                rows, modality="text", template="chat", do_sample=False, max_new_tokens=48
            )
            answers += [
                "".join(segment.text for segment in document if isinstance(segment, Text)) for document in documents
            ]
        return answers

    def draw(self, requests: Sequence[Any], *, seed: int = 0) -> Bytes:
        """Draw a picture for each request: uint8 [B, 64, 64, 3]."""
        drawn = []
        for number, part in enumerate(_parts(requests, "drawing")):
            options = self.options.replace(seed=1000 * seed + number)
            for document in self.chameleon.generate_batch(
                list(part), modality="image", template="chat", options=options
            ):
                (picture,) = (segment.image for segment in document if isinstance(segment, ImageSegment))
                drawn.append(np.asarray(picture.convert("RGB")))
        return np.stack(drawn) if drawn else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def agreements(guesses: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    """Return whether each guess is the wanted name."""
    return [guess == name for guess, name in zip(guesses, wanted, strict=True)]


def agreement(guesses: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of guesses that are the wanted names."""
    return share_of(agreements(guesses, wanted))


def share_of(trials: Sequence[bool]) -> float:
    """Return the share of trials that are true; NaN without trials."""
    return float(np.mean(trials)) if len(trials) else float("nan")


def sample(pictures: PictureSet, count: int | None, *, seed: int = 0) -> PictureSet:
    """Return at most ``count`` of the pictures, chosen at random, in their order; all of them for None."""
    if count is None or count >= len(pictures):
        return pictures
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pictures))[:count])
    return PictureSet([pictures.records[index] for index in chosen], pictures.rgba_BHWC[chosen])


def _parts(items: Sequence[Any], title: str) -> Iterator[Sequence[Any]]:
    for start in track(range(0, len(items), ROWS), title, disable=not items):
        yield items[start : start + ROWS]
