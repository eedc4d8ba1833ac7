"""Where the pictures of a run come from. Shapes: N pictures, B pictures of a batch, C channels, H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError


class PictureSource(Protocol):
    """Pictures by number, augmented or not.

    A run is repeatable, and continues from a checkpoint to the bit, where ``pixels`` depends on nothing but its
    arguments: all randomness comes from ``random``.
    """

    def __len__(self) -> int:
        """Pictures in one pass."""
        ...

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """The pictures of one batch: float32 [B, C, H, W] in −1…1."""
        ...


class TensorPictures:
    """Pictures that are in memory: uint8 [N, C, H, W], or float in −1…1; mirrored at random where ``mirror``."""

    def __init__(self, pixels_NCHW: Tensor, *, mirror: bool = False) -> None:
        if pixels_NCHW.ndim != 4 or not len(pixels_NCHW):
            raise ImageError(f"expected pictures [N, C, H, W], at least one, got shape {list(pixels_NCHW.shape)}.")
        self._pixels_NCHW = pixels_NCHW
        self._mirror = mirror

    def __len__(self) -> int:
        return len(self._pixels_NCHW)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Those pictures; see ``PictureSource``."""
        pixels_BCHW = self._pixels_NCHW[list(indices)]
        pixels_BCHW = pixels_BCHW.float() / 127.5 - 1 if pixels_BCHW.dtype == torch.uint8 else pixels_BCHW.float()
        if self._mirror:
            mirrored_B = torch.from_numpy(random.random(len(indices)) < 0.5)
            pixels_BCHW = torch.where(mirrored_B[:, None, None, None], pixels_BCHW.flip(3), pixels_BCHW)
        return pixels_BCHW


class Order:
    """The order of the pictures: a new permutation for every pass, a function of seed and step alone."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed
        self._passes: dict[int, list[int]] = {}

    def indices(self, step: int) -> list[int]:
        """The pictures of step ``step``."""
        first = step * self._batch_size
        return [self._at(position) for position in range(first, first + self._batch_size)]

    def _at(self, position: int) -> int:
        number, place = divmod(position, self._count)
        if number not in self._passes:
            # A batch reaches over the end of at most a few passes; the ones before are done with.
            self._passes = {key: value for key, value in self._passes.items() if key >= number - 1}
            self._passes[number] = random_for(self._seed, "order", number).permutation(self._count).tolist()
        return self._passes[number][place]


_PURPOSES = {"order": 0, "augment": 1, "codebook": 2}


def random_for(seed: int, purpose: str, number: int) -> np.random.Generator:
    """A generator of its own for each purpose and step, so that none of them has a state to be saved."""
    return np.random.default_rng([seed, _PURPOSES[purpose], number])
