"""What came out of the tour: answers, drawings, a document, and all of it as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image as PILImage

from chameleon_text import Document

if TYPE_CHECKING:
    from chameleon_emoji import Figure, Picture


@dataclass(frozen=True, slots=True)
class Caption:
    """The model's name for a drawing that it never saw."""

    picture: Picture
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the answer is the drawing's name, with or without an article."""
        return self.answer.removeprefix("an ").removeprefix("a ") == self.picture.name


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the model drew: ``chameleon.draw(request, seed=seed)``."""

    request: str
    seed: int
    image: PILImage
    nearest: Picture
    """The training picture with the least mean squared difference."""
    psnr: float
    """How similar the two are, in decibels: a peak signal-to-noise ratio."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A drawing of a colour and a shape."""

    colour: str
    shape: str
    is_withheld: bool
    """Whether the pair was withheld from training, in every style."""
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class Story:
    """A document whose pictures the model drew, and its name for the last of them."""

    document: Document
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the tour made, and what was measured of the model before."""

    folder: Path
    transformer_weights: int
    tokenizer_weights: int
    known_things: int
    """How many things the model learned, without hearts, circles and squares."""
    measured: Mapping[str, Figure]
    """The model card's figures, by name."""
    captions: Sequence[Caption]
    reconstruction_psnr: float
    """The mean over the captioned drawings of the PSNR after the image tokenizer, in decibels."""
    known: Sequence[Drawing]
    repeated: Sequence[Drawing]
    pairs: Sequence[Pair]
    """Every colour and shape, drawn once."""
    withheld_pairs: Sequence[Pair]
    """The withheld ones among them, drawn again with other seeds."""
    story: Story
    hard: Sequence[Drawing]
    seconds: float
    """From the first question to the last picture."""

    @property
    def drawings(self) -> list[Drawing]:
        """Every drawing but those of the document."""
        pairs = [pair.drawing for pair in (*self.pairs, *self.withheld_pairs)]
        return [*self.known, *self.repeated, *pairs, *self.hard]

    @property
    def right_captions(self) -> int:
        """How many of the captions are the drawings' names."""
        return sum(caption.is_right for caption in self.captions)

    def figures(self) -> list[tuple[str, str]]:
        """Return figures and what they mean."""
        return [
            (f"{self.right_captions} of {len(self.captions)}", "drawings that the model never saw are named exactly"),
            (
                f"{self.reconstruction_psnr:.1f} dB",
                "PSNR of the same drawings after the image tokenizer",
            ),
            (f"{len(self.drawings) + len(self.story.document) // 2}", "pictures drawn, one after the other"),
            (f"{self.seconds:.0f} s", "for everything"),
        ]

    def files(self) -> list[tuple[Path, str]]:
        """Return the files that were written and what they hold."""
        return [
            (self.folder / "contact-sheet.png", "what the model can do and what it can't, on one page"),
            (self.folder / "document.md", "the document with two pictures (document.json for programs)"),
            (self.folder / "figures.json", "every answer, and every drawing's nearest training picture"),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the contents of ``figures.json``."""
        return {
            "figures": [{"value": value, "meaning": meaning} for value, meaning in self.figures()],
            "captions": [
                {"name": each.picture.name, "style": each.picture.style, "answer": each.answer, "right": each.is_right}
                for each in self.captions
            ],
            "drawings": [
                {"request": each.request, "seed": each.seed, "nearest": each.nearest.name, "psnr": round(each.psnr, 2)}
                for each in self.drawings
            ],
            "withheld_pairs": sorted({f"{each.colour} {each.shape}" for each in self.withheld_pairs}),
        }
