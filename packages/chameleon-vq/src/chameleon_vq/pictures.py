"""Pictures in every form (files, PIL images, arrays) to PIL images, and pixels back to PIL images.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from ._moved import moved_names
from .errors import ConfigError, ImageError
from .picture_files import SUFFIXES as SUFFIXES
from .picture_files import check_pixels, eight_bits, open_file, upright
from .picture_files import pictures_in as pictures_in
from .picture_texts import open_text

T = TypeVar("T")
Picture = str | os.PathLike[str] | PIL.Image.Image | npt.NDArray[Any] | Tensor
"""A file (its path, or a ``data:`` URL or base64 of it), a PIL image, or uint8 values [H, W], [H, W, C] or [C, H, W]
with 1, 3 or 4 channels."""

MAX_PIXELS = 89_478_485
"""The default limit of a picture's pixels: 256 MiB in RGB, the size at which Pillow warns."""

PIXELS_TOGETHER = 2**20
"""Pixels of the pictures that are processed together by default: large ones gain nothing from more company."""
MOST_TOGETHER = 16
"""The most pictures that are processed together by default."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEPTH = 8


def check_pixel_tensor(pixels_BCHW: object, channels: int) -> None:
    """Raise ``ImageError`` if pixels aren't a floating-point tensor [B, C, H, W] with so many channels."""
    if not isinstance(pixels_BCHW, Tensor) or pixels_BCHW.layout != torch.strided or pixels_BCHW.is_meta:
        raise ImageError(
            f"expected a tensor of floating-point pixels [B, {channels}, H, W] with dense values, got "
            f"{type(pixels_BCHW).__name__}; ImageTokenizer.encode takes pictures."
        )
    if pixels_BCHW.ndim != 4 or pixels_BCHW.shape[1] != channels or not pixels_BCHW.is_floating_point():
        raise ImageError(
            f"expected floating-point pixels [B, {channels}, H, W], got {pixels_BCHW.dtype} {list(pixels_BCHW.shape)}."
        )


def check_pixel_range(pixels_BCHW: Tensor, *, largest: float) -> None:
    """Raise ``ImageError`` if pixels hold NaN, or values far outside of −largest…largest (at least 1)."""
    if not pixels_BCHW.numel():
        return
    low, high = (float(value) for value in pixels_BCHW.detach().aminmax())
    limit = 2 * max(1.0, largest)
    if not -limit <= low <= high <= limit:
        raise ImageError(
            f"got pixels from {low:g} to {high:g}, expected about −1…1, as ImageTokenizer.pixels returns them. "
            "Pass pictures of 0…255 as uint8 arrays to ImageTokenizer.encode."
        )


def list_pictures(images: Picture | Iterable[Picture | Iterable[Picture]]) -> list[Picture]:
    """Return a flat list of a picture, several, lists of several, or an array [B, H, W, C]. Raises ``ImageError``."""
    return _flat(images, depth=0)


def _flat(images: Any, *, depth: int) -> list[Picture]:
    if isinstance(images, (str, os.PathLike, PIL.Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        if isinstance(images, Tensor):
            _check_tensor(images)
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray)):
        if depth == _DEPTH:
            raise ImageError(f"expected pictures in lists of lists, got {_DEPTH} lists inside each other or more.")
        return [picture for part in images for picture in _flat(part, depth=depth + 1)]
    raise ImageError(
        f"expected a picture (a path, a PIL image, or a uint8 array) or a list of them, got {type(images).__name__}."
    )


def batch_of(size: object, pixels: int) -> int:
    """Return how many pictures of so many pixels are processed together, if ``size`` is None; else ``size``.

    Raises ``ConfigError`` where that isn't an integer ≥ 1.
    """
    if size is None:
        return min(max(PIXELS_TOGETHER // max(pixels, 1), 1), MOST_TOGETHER)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"the batch size is {size!r}, expected an integer ≥ 1.")
    return size


def batches(items: Iterable[T], size: int | None, *, pixels: int = 1) -> Iterator[list[T]]:
    """Yield lists of ``batch_of(size, pixels)`` items, the last one shorter, without reading ahead."""
    together = batch_of(size, pixels)
    iterator = iter(items)
    while batch := list(islice(iterator, together)):
        yield batch


def open_picture(source: Picture, *, pixel_limit: int, exif: bool | None) -> PIL.Image.Image:
    """Open and decode a picture of at most ``pixel_limit`` pixels; of an animation the first frame.

    ``exif`` says whether to rotate it by its EXIF orientation: always, never, or (None) only if it is a file. Raises
    ``ImageError``, ``MissingFileError``.
    """
    if isinstance(source, PIL.Image.Image):
        image, name = _decoded(source, pixel_limit, turn=bool(exif)), f"the {source.mode} image"
        return eight_bits(image, name) if image.mode.startswith(("I", "F")) else image
    if isinstance(source, (str, os.PathLike)):
        turn = exif is not False
        if isinstance(source, str):
            image = open_text(source, pixel_limit=pixel_limit, exif=turn)
        else:
            image = open_file(Path(source), pixel_limit=pixel_limit, exif=turn)
        return eight_bits(image, f"{source!s:.200}") if image.mode.startswith(("I", "F")) else image
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source, pixel_limit)
    raise ImageError(
        f"expected a picture (a path, a PIL image, or a uint8 array), got {type(source).__name__} {source!r:.80}."
    )


def _decoded(image: PIL.Image.Image, pixel_limit: int, *, turn: bool) -> PIL.Image.Image:
    name = f"the {image.mode} image"
    check_pixels(image.width, image.height, pixel_limit, name)
    try:
        image.load()
    except Exception as error:  # a decoder may raise anything on a malformed file
        raise ImageError(
            f"{name} can't be decoded: {type(error).__name__}: {error}. It is truncated, damaged or closed; open it "
            "again."
        ) from error
    return upright(image, name) if turn else image


def _from_array(array: npt.NDArray[Any] | Tensor, pixel_limit: int) -> PIL.Image.Image:
    if array.dtype not in (np.uint8, torch.uint8):
        raise ImageError(
            f"expected an array of uint8 (0…255), got {array.dtype}. Multiply floats in 0…1 by 255 and round; pass "
            "pixels that are ready for the model to ImageTokenizer.encode_pixels."
        )
    shape = tuple(array.shape)
    if len(shape) == 3 and shape[2] not in _MODES and shape[0] in _MODES:
        shape = (shape[1], shape[2], shape[0])
        array = array.permute(1, 2, 0) if isinstance(array, Tensor) else np.moveaxis(array, 0, 2)
    if 0 in shape or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in _MODES):
        raise ImageError(
            f"expected an array [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, got shape {list(array.shape)}."
        )
    check_pixels(shape[1], shape[0], pixel_limit, "the array")
    if isinstance(array, Tensor):
        array = array.detach().cpu().numpy()
    elif isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise ImageError("expected an array without masked values; fill them first, with array.filled(255).")
        array = array.data
    if len(shape) == 3 and shape[2] == 1:
        array = array[:, :, 0]
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def _check_tensor(tensor: Tensor) -> None:
    """Raise ``ImageError`` if a tensor has no values that can be read one after the other."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        kind = "on the device meta, without values" if tensor.device.type == "meta" else f"of layout {tensor.layout}"
        raise ImageError(f"expected a picture's tensor with dense values, got one {kind}; pass the values themselves.")


def pixels_to_images(pixels_BCHW: Tensor) -> list[PIL.Image.Image]:
    """Convert pixels in −1…1 to PIL images as Meta's code does: clamped, (x + 1) / 2 · 255, truncated.

    Raises ``ImageError`` unless they have 1, 3 or 4 channels, and if any is NaN.
    """
    if pixels_BCHW.ndim != 4:
        raise ImageError(f"expected pixels [B, C, H, W], got shape {list(pixels_BCHW.shape)}.")
    if pixels_BCHW.shape[1] not in _MODES:
        raise ImageError(f"got pixels of {pixels_BCHW.shape[1]} channels, expected 1, 3 or 4.")
    if pixels_BCHW.isnan().any():
        raise ImageError(
            "the pixels to draw hold NaN, expected numbers; the weights hold NaN, or overflow in their dtype."
        )
    unit_BCHW = (pixels_BCHW.detach().float().clamp(-1, 1) + 1) / 2
    bytes_BHWC = (unit_BCHW * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [bytes_to_image(bytes_HWC) for bytes_HWC in bytes_BHWC]


def bytes_to_image(bytes_HWC: npt.NDArray[np.uint8]) -> PIL.Image.Image:
    """Convert an array [H, W, C] of 1, 3 or 4 channels to a PIL image."""
    return PIL.Image.fromarray(bytes_HWC[:, :, 0] if bytes_HWC.shape[2] == 1 else bytes_HWC)


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"PIXEL_LIMIT": "chameleon_vq.pictures:MAX_PIXELS"})
