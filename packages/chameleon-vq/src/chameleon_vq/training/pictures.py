"""Where the pictures of a run come from. Shapes: B pictures, C channels, H W pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .._moved import moved_names
from ..errors import ImageError
from ._old_names import Order as _Order
from ._old_names import renamed_arguments


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


@runtime_checkable
class DividedPictureSource(PictureSource, Protocol):
    """A set of pictures of which each of several processes reads its part of a batch alone."""

    def part(self, indices: Sequence[int], random: np.random.Generator, own: slice) -> Tensor:
        """Return ``pixels(indices, random)[own]``, without reading the others.

        ``random`` must be used as for all of them, so that the number of processes doesn't change what is drawn.
        """
        ...


def part_of_batch(pictures: PictureSource, indices: Sequence[int], random: np.random.Generator, own: slice) -> Tensor:
    """Return a part of a batch, of a source without ``part`` by reading all of it."""
    if isinstance(pictures, DividedPictureSource):
        return pictures.part(indices, random, own)
    pixels_BCHW = pictures.pixels(indices, random)
    return pixels_BCHW[own] if isinstance(pixels_BCHW, Tensor) else pixels_BCHW


_CHECKED_TOGETHER = 256  # pictures, so that the check needs little memory
_SLACK = 1e-3  # of −1…1, for rounding


def check_training_pixels(pixels_BCHW: Tensor, name: str, *, slack: float = _SLACK) -> None:
    """Raise ``ImageError`` unless pixels [B, C, H, W] are floating-point numbers in −1…1, up to ``slack``."""
    if not pixels_BCHW.is_floating_point():
        raise ImageError(
            f"{name} are {pixels_BCHW.dtype}, expected uint8 (0…255) or floating point (−1…1). Convert 0…255 with "
            ".to(torch.uint8)."
        )
    low, high = (float(value) for value in pixels_BCHW.detach().aminmax())
    if not -1 - slack <= low <= high <= 1 + slack:
        raise ImageError(
            f"{name} have values from {low:g} to {high:g}, expected floating point in −1…1. Convert 0…255 with "
            ".to(torch.uint8), or with x / 127.5 - 1."
        )


def check_training_batch(pixels_BCHW: object, name: str, *, channels: int, stride: int) -> None:
    """Raise ``ImageError`` unless pictures are floating point [B, C, H, W] in −1…1, with sides that the stride divides.

    Only values that are far outside are refused, since an augmentation may go a little beyond.
    """
    if not isinstance(pixels_BCHW, Tensor) or pixels_BCHW.ndim != 4 or not pixels_BCHW.numel():
        found = list(pixels_BCHW.shape) if isinstance(pixels_BCHW, Tensor) else type(pixels_BCHW).__name__
        raise ImageError(f"{name} are {found}, expected pixels [B, {channels}, H, W].")
    height, width = pixels_BCHW.shape[2:]
    if pixels_BCHW.shape[1] != channels or height % stride or width % stride:
        raise ImageError(
            f"{name} have the shape {list(pixels_BCHW.shape)}, expected [B, {channels}, H, W] with sides that are "
            f"multiples of {stride}. Resize and crop them, or convert them to {channels} channels first."
        )
    check_training_pixels(pixels_BCHW, name, slack=1.0)


class TensorPictures:
    """Pictures in memory: uint8 [B, C, H, W], or float in −1…1. ``mirror`` flips each one with probability 1/2."""

    @renamed_arguments(pixels_NCHW="pixels_BCHW")
    def __init__(self, pixels_BCHW: Tensor, *, mirror: bool = False) -> None:
        if not isinstance(pixels_BCHW, Tensor) or pixels_BCHW.layout != torch.strided or pixels_BCHW.is_meta:
            raise ImageError(f"expected a tensor [B, C, H, W] with dense values, got {type(pixels_BCHW).__name__}.")
        if pixels_BCHW.ndim != 4 or not pixels_BCHW.numel():
            raise ImageError(f"expected at least one picture [B, C, H, W], got shape {list(pixels_BCHW.shape)}.")
        if pixels_BCHW.dtype != torch.uint8:
            for start in range(0, len(pixels_BCHW), _CHECKED_TOGETHER):
                check_training_pixels(pixels_BCHW[start : start + _CHECKED_TOGETHER], "the pictures")
        self._pixels_BCHW = pixels_BCHW
        self._mirror = mirror

    def __repr__(self) -> str:
        pixels_BCHW = self._pixels_BCHW
        dtype = str(pixels_BCHW.dtype).removeprefix("torch.")
        return f"TensorPictures({list(pixels_BCHW.shape)}, {dtype}, mirror={self._mirror})"

    def __len__(self) -> int:
        return len(self._pixels_BCHW)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Return the pictures at ``indices``: float32 [B, C, H, W] in −1…1; see ``PictureSource``."""
        return self.part(indices, random, slice(None))

    def part(self, indices: Sequence[int], random: np.random.Generator, own: slice) -> Tensor:
        """Return ``pixels(indices, random)[own]``; see ``DividedPictureSource``."""
        pixels_BCHW = self._pixels_BCHW[list(indices[own])]
        pixels_BCHW = pixels_BCHW.float() / 127.5 - 1 if pixels_BCHW.dtype == torch.uint8 else pixels_BCHW.float()
        if self._mirror:
            mirrored_B = torch.from_numpy(random.random(len(indices)) < 0.5)[own]
            pixels_BCHW = torch.where(mirrored_B[:, None, None, None], pixels_BCHW.flip(3), pixels_BCHW)
        return pixels_BCHW


_moved_name = moved_names(__name__, {"random_for": "chameleon_vq.training.order:random_for"})


def __getattr__(name: str) -> Any:
    if name == "random_for":
        return _moved_name(name)
    if name != "Order":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.Order is deprecated; use chameleon_vq.training.order.BatchOrder.", DeprecationWarning, stacklevel=2
    )
    return _Order
