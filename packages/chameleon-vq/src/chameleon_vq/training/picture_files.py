"""Picture files to train on: each is read once before a run, and those that can't be read are known before it.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ChameleonVQError
from ..image_processor import ChameleonImageProcessor
from ..read_ahead import read_ahead

MEMORY = 2**30
"""Bytes of decoded pictures that are kept, by default; the others are decoded again each time."""
_AHEAD = 32


class PictureFiles:
    """Files as a ``PictureSource``: decoded, resized and cropped as the image tokenizer will read them.

    All are read when this is made, so that a damaged file doesn't end a run after hours: those that can't be are passed
    to ``on_error`` and left out, or raise without it. As many decoded pictures as fit into ``memory`` bytes stay there.
    ``mirror`` flips each picture with probability 1/2. ``on_read`` is called after each file.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        image_processor: ChameleonImageProcessor,
        *,
        mirror: bool = False,
        memory: int = MEMORY,
        on_error: Callable[[Path, ChameleonVQError], None] | None = None,
        on_read: Callable[[], None] | None = None,
    ) -> None:
        self.paths: list[Path] = []
        """The files that can be read, in the order in which they were given."""
        self._processor = image_processor
        self._mirror = mirror
        self._kept: dict[int, Tensor] = {}
        for path, picture in read_ahead(self._read, paths, ahead=_AHEAD):
            try:
                levels_CHW = picture()
            except ChameleonVQError as error:
                if on_error is None:
                    raise
                on_error(path, error)
            else:
                if memory >= levels_CHW.numel():
                    memory -= levels_CHW.numel()
                    self._kept[len(self.paths)] = levels_CHW
                self.paths.append(path)
            if on_read is not None:
                on_read()

    def __repr__(self) -> str:
        return f"PictureFiles({len(self)} pictures, {len(self._kept)} of them in memory, mirror={self._mirror})"

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Return the pictures at ``indices``: float32 [B, C, H, W] in −1…1; see ``PictureSource``."""
        return self.part(indices, random, slice(None))

    def part(self, indices: Sequence[int], random: np.random.Generator, own: slice) -> Tensor:
        """Return ``pixels(indices, random)[own]``; see ``DividedPictureSource``."""
        levels_BCHW = torch.stack([self._levels(index) for index in indices[own]])
        pixels_BCHW = levels_BCHW.float() / 127.5 - 1
        if self._mirror:
            mirrored_B = torch.from_numpy(random.random(len(indices)) < 0.5)[own]
            pixels_BCHW = torch.where(mirrored_B[:, None, None, None], pixels_BCHW.flip(3), pixels_BCHW)
        return pixels_BCHW

    def _levels(self, index: int) -> Tensor:
        kept = self._kept.get(index)
        return self._read(self.paths[index]) if kept is None else kept

    def _read(self, path: Path) -> Tensor:
        """Return a picture: uint8 [C, H, W]."""
        read = self._processor.preprocess(path, do_rescale=False, do_normalize=False)
        return torch.as_tensor(read["pixel_values"][0]).to(torch.uint8)
