"""Where the pictures of a run come from. Shapes: B pictures, C channels, H W pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError
from ._old_names import Order as _Order


class PictureSource(Protocol):
    """A set of pictures, read by index and optionally augmented.

    A run is repeatable, and resumes from a checkpoint bit for bit, if ``pixels`` depends only on its arguments: all
    randomness comes from ``random``.
    """

    def __len__(self) -> int:
        """Return the number of pictures in one pass."""
        ...

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Return the pictures of one batch: float32 [B, C, H, W] in −1…1."""
        ...


class TensorPictures:
    """Pictures in memory: uint8 [B, C, H, W], or float in −1…1. ``mirror`` flips each one with probability 1/2."""

    def __init__(self, pixels_BCHW: Tensor, *, mirror: bool = False) -> None:
        if pixels_BCHW.ndim != 4 or not len(pixels_BCHW):
            raise ImageError(f"expected at least one picture [B, C, H, W], got shape {list(pixels_BCHW.shape)}.")
        self._pixels_BCHW = pixels_BCHW
        self._mirror = mirror

    def __len__(self) -> int:
        return len(self._pixels_BCHW)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Return the pictures at ``indices``: float32 [B, C, H, W] in −1…1; see ``PictureSource``."""
        pixels_BCHW = self._pixels_BCHW[list(indices)]
        pixels_BCHW = pixels_BCHW.float() / 127.5 - 1 if pixels_BCHW.dtype == torch.uint8 else pixels_BCHW.float()
        if self._mirror:
            mirrored_B = torch.from_numpy(random.random(len(indices)) < 0.5)
            pixels_BCHW = torch.where(mirrored_B[:, None, None, None], pixels_BCHW.flip(3), pixels_BCHW)
        return pixels_BCHW


def __getattr__(name: str) -> Any:
    if name != "Order":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.Order is deprecated; use chameleon_vq.training.order.BatchOrder.", DeprecationWarning, stacklevel=2
    )
    return _Order
