"""The photographs that come with the demo."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.resources import files

import PIL.Image
from PIL.Image import Image as PILImage

FOLDER = "photographs"


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture, and what is said of it."""

    title: str
    credit: str
    image: PILImage


def load_photographs() -> list[Photograph]:
    """The two photographs; ``LICENSES.txt`` beside them says where they are from."""
    return [
        Photograph("Chelsea the cat", "Stefan van der Walt, CC0", _load("chelsea.jpg")),
        Photograph("Coffee cup", "Rachel Michetti, CC0", _load("coffee.jpg")),
    ]


def _load(name: str) -> PILImage:
    data = (files(__package__) / FOLDER / name).read_bytes()
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")
