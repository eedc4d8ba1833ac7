"""The embedded model of the Chameleon toolkit: its weights, and the pictures that it was trained and tested on.

Once installed, it is found by name: ``Chameleon.from_pretrained("emoji")`` of chameleon-core, and
``ImageTokenizer.from_pretrained("emoji")`` of chameleon-vq. ``pictures()`` returns the pictures, each with its licence;
``figures()`` what was measured.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__version__ = "2026.11.0"

__all__ = ["MODEL", "SIDE", "Figure", "Picture", "__version__", "figures", "pictures"]

_ROOT = Path(__file__).parent
_PICTURES = _ROOT / "pictures"

MODEL = _ROOT / "model"
"""The folder of the checkpoint, which ``from_pretrained`` of both packages reads."""

SIDE = 64
"""Width and height of every picture, in pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An emoji in one style, on a white background."""

    name: str
    """Unicode's English short name of what it shows, such as "red apple"."""
    style: str
    """The set that it is from: "noto", "twemoji" or "fluent"."""
    split: str
    """"train", or how it was withheld from training.

    "withheld-style": the model has seen the thing in other styles only. "withheld-shape": it has seen the colour and
    the shape, but not together.
    """
    group: str | None
    """Unicode's group of the emoji, in the words of the model: "animals and nature", "food and drink" or "travel and
    places"; None for hearts, circles and squares, whose group the model wasn't taught."""
    licence: str
    """SPDX identifier of its licence; ``NOTICE.md`` has the attribution."""
    place: tuple[int, int]
    """Column and row in the sheet of its style, counted from 0."""

    @property
    def image(self) -> Image:
        """The picture: RGB, 64×64 pixels. Needs Pillow with WebP, which its wheels have."""
        left, top = (SIDE * index for index in self.place)
        return _sheet(self.style).crop((left, top, left + SIDE, top + SIDE))


def pictures() -> list[Picture]:
    """Return all pictures of the package, in a fixed order."""
    records = json.loads((_PICTURES / "pictures.json").read_text(encoding="utf-8"))
    return [Picture(**{**record, "place": tuple(record["place"])}) for record in records]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the model card's table: the share of trials in which the transformer was right."""

    name: str
    """What was measured: "withheld style: exact name"."""
    value: float
    """The share, in 0…1."""
    count: int
    """How many trials there were."""
    baseline: float | None
    """The share to compare it with, in 0…1; None where there is none."""
    against: str
    """What the baseline is: "nearest training picture"; empty where there is none."""


def figures() -> dict[str, Figure]:
    """Return what was measured of the transformer, by name; ``MODEL_CARD.md`` says how."""
    report = json.loads((_ROOT / "figures" / "transformer.json").read_text(encoding="utf-8"))
    return {record["name"]: Figure(**record) for record in report["figures"]}


@functools.cache
def _sheet(style: str) -> Image:
    from PIL import Image  # here, so that finding the weights needs no package

    with Image.open(_PICTURES / f"{style}.webp") as sheet:
        return sheet.convert("RGB")
