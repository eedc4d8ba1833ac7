"""The data set that ``build`` makes, and how a stage reads it.

Shapes: N pictures, B pictures of a batch, H W pixels, C channels.
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
    """What is known of one picture; ``core`` says that the transformer learns from it too."""

    style: str
    name: str
    hexcode: str
    group: int | None
    core: bool
    split: str
    cluster: int
    licence: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True)
class PictureSet:
    """All pictures of the recipe."""

    records: list[Picture]
    rgba_NHWC: npt.NDArray[np.uint8]
    """Straight alpha; a view of the file."""

    @classmethod
    def load(cls, folder: Path = DATA) -> PictureSet:
        """Read what ``build`` wrote."""
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(f"there is no data set in {folder}. Make it first: python -m recipes.emoji.build")
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        records = [Picture(**record) for record in data["pictures"]]
        return cls(records, np.load(folder / PICTURES, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.records)

    def where(self, wanted: Callable[[Picture], bool]) -> PictureSet:
        """The pictures that are wanted, in the same order."""
        indices = [index for index, record in enumerate(self.records) if wanted(record)]
        return PictureSet([self.records[index] for index in indices], self.rgba_NHWC[indices])

    def on_white(self) -> npt.NDArray[np.uint8]:
        """The pictures on white: uint8 [N, 64, 64, 3]."""
        return on_ground(self.rgba_NHWC)


def on_ground(rgba_NHWC: npt.NDArray[np.uint8], colour: tuple[int, int, int] = WHITE) -> npt.NDArray[np.uint8]:
    """Pictures with straight alpha laid on one colour: uint8 [N, H, W, 3]."""
    alpha_NHW1 = rgba_NHWC[..., 3:].astype(np.float32) / 255
    mixed_NHWC = rgba_NHWC[..., :3] * alpha_NHW1 + np.asarray(colour, np.float32) * (1 - alpha_NHW1)
    return np.rint(mixed_NHWC).astype(np.uint8)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
