"""The embedded model of the Chameleon toolkit: its weights, and the drawings that it learned from or is tested on.

It is found by name once installed: ``Chameleon.from_pretrained("emoji")`` of chameleon-core, and
``ImageTokenizer.from_pretrained("emoji")`` of chameleon-vq.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MODEL", "SIDE", "Picture", "pictures"]

_ROOT = Path(__file__).parent
_PICTURES = _ROOT / "pictures"

MODEL = _ROOT / "model"
"""The folder of the checkpoint, which ``from_pretrained`` of either package reads."""

SIDE = 64
"""Width and height of every picture, in pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One emoji of one style, on white."""

    name: str
    """What it shows, by Unicode's English short name: "red apple"."""
    style: str
    """Whose drawing it is: "noto", "twemoji" or "fluent"."""
    split: str
    """"train"; "withheld-style" for drawings of things that the model knows in other styles only; "withheld-shape" for
    those whose colour and shape it knows apart only."""
    licence: str
    """SPDX identifier; ``NOTICE.md`` has the attribution."""
    place: tuple[int, int]
    """Column and row in its style's sheet."""

    @property
    def image(self) -> Image:
        """64×64 pixels, RGB. Needs Pillow, with WebP as it comes."""
        left, top = (SIDE * index for index in self.place)
        return _sheet(self.style).crop((left, top, left + SIDE, top + SIDE))


def pictures() -> list[Picture]:
    """All pictures that come with the package, in a fixed order."""
    records = json.loads((_PICTURES / "pictures.json").read_text(encoding="utf-8"))
    return [Picture(**{**record, "place": tuple(record["place"])}) for record in records]


@functools.cache
def _sheet(style: str) -> Image:
    from PIL import Image  # so that finding the weights needs nothing

    with Image.open(_PICTURES / f"{style}.webp") as sheet:
        return sheet.convert("RGB")
