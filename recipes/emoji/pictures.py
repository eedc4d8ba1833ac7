"""The data set that ``build`` makes, as the stages read it.

Shapes: B pictures, H W pixels, C channels.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 64
DATA = Path("build/emoji/data")
PICTURES = "pictures.npy"
MANIFEST = "manifest.json"
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's record; ``core`` means that the transformer may learn from it, too."""

    style: str
    name: str
    hexcode: str
    group: int | None
    core: bool
    split: str
    cluster: int
    licence: str

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PictureSet:
    """All pictures of the recipe."""

    records: list[Picture]
    rgba_BHWC: npt.NDArray[np.uint8]
    """uint8 [B, 64, 64, 4] with straight alpha, memory-mapped."""

    @classmethod
    def load(cls, folder: Path = DATA) -> PictureSet:
        """Read what ``build`` wrote."""
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(f"No data set in {folder}. Make it first: python -m recipes.emoji.build")
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        records = [Picture(**record) for record in data["pictures"]]
        return cls(records, np.load(folder / PICTURES, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.records)

    def where(self, wanted: Callable[[Picture], bool]) -> PictureSet:
        """Return the pictures that ``wanted`` accepts, in the same order."""
        indices = [index for index, record in enumerate(self.records) if wanted(record)]
        return PictureSet([self.records[index] for index in indices], self.rgba_BHWC[indices])

    def on_white(self) -> npt.NDArray[np.uint8]:
        """Return the pictures on white: uint8 [B, 64, 64, 3]."""
        return on_ground(self.rgba_BHWC)


def on_ground(rgba_BHWC: npt.NDArray[np.uint8], colour: tuple[int, int, int] = WHITE) -> npt.NDArray[np.uint8]:
    """Return pictures with straight alpha composited on one colour: uint8 [B, H, W, 3]."""
    alpha_BHW1 = rgba_BHWC[..., 3:].astype(np.float32) / 255
    mixed_BHWC = rgba_BHWC[..., :3] * alpha_BHW1 + np.asarray(colour, np.float32) * (1 - alpha_BHW1)
    return np.rint(mixed_BHWC).astype(np.uint8)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which replaces it if the block raises nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
