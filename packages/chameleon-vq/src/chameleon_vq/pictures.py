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
import PIL.ImageOps
import torch
from torch import Tensor

from ._moved import moved_names
from .errors import ConfigError, ImageError, MissingFileError

T = TypeVar("T")
Picture = str | os.PathLike[str] | PIL.Image.Image | npt.NDArray[Any] | Tensor
"""A file, a PIL image, or uint8 values [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels."""

MAX_PIXELS = 89_478_485
"""The default limit of a picture's pixels: 256 MiB in RGB, the size at which Pillow warns."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
"""File name suffixes of the pictures that are read from a folder."""

_ORIENTATION = 0x0112  # the EXIF tag
_RAISE_LIMIT = (
    "If you trust the file, raise pixel_limit of the image processor, and Pillow's limit PIL.Image.MAX_IMAGE_PIXELS."
)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def list_pictures(images: Picture | Iterable[Picture | Iterable[Picture]]) -> list[Picture]:
    """Return a flat list of a picture, several, lists of several, or an array [B, H, W, C]. Raises ``ImageError``."""
    if isinstance(images, (str, os.PathLike, PIL.Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray)):
        return [picture for part in images for picture in list_pictures(part)]
    raise ImageError(
        f"expected a picture (a path, a PIL image, or a uint8 array) or a list of them, got {type(images).__name__}."
    )


def pictures_in(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Return the picture files of a folder and its subfolders, sorted. Raises ``MissingFileError``."""
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError(f"{root} is not a folder; expected an existing folder of pictures.")
    return (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter, without reading ahead. Raises ``ConfigError``."""
    if size < 1:
        raise ConfigError(f"the batch size is {size}, expected an integer ≥ 1.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def open_picture(source: Picture, *, pixel_limit: int, exif: bool | None) -> PIL.Image.Image:
    """Open and decode a picture of at most ``pixel_limit`` pixels; of an animation the first frame.

    ``exif`` says whether to rotate it by its EXIF orientation: always, never, or (None) only if it is a file. Raises
    ``ImageError``, ``MissingFileError``.
    """
    if isinstance(source, PIL.Image.Image):
        return _decoded(source, f"the {source.mode} image", pixel_limit, turn=bool(exif))
    if isinstance(source, (str, os.PathLike)):
        with _open_file(Path(source)) as image:
            return _decoded(image, str(source), pixel_limit, turn=exif is not False)
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source)
    raise ImageError(
        f"expected a picture (a path, a PIL image, or a uint8 array), got {type(source).__name__} {source!r:.80}."
    )


def check_pixels(width: int, height: int, limit: int, name: str) -> None:
    """Raise ``ImageError`` if a picture is empty or has more pixels than the limit."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width}×{height} pixels, expected at least 1×1.")
    if width * height > limit:
        raise ImageError(
            f"{name} has {width}×{height} = {width * height:,} pixels, more than the limit of {limit:,}. {_RAISE_LIMIT}"
        )


def _open_file(path: Path) -> PIL.Image.Image:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, expected a picture file; ImageTokenizer.encode_folder reads folders.")
    if not path.exists():
        hint = " Download it first: only local files are read." if "://" in str(path) or ":/" in str(path) else ""
        raise MissingFileError(f"there is no picture file {path}.{hint}")
    size = path.stat().st_size
    if size == 0:
        raise ImageError(f"{path} is empty (0 bytes), expected a picture file; download it again.")
    try:
        return PIL.Image.open(path)
    except PIL.UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(12)
        raise ImageError(
            f"{path} is not a picture that Pillow can read: {size:,} bytes, starting with {start!r}. "
            "Expected JPEG, PNG, WebP, GIF, TIFF or the like."
        ) from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} has too many pixels: {error} {_RAISE_LIMIT}") from error
    # Any exception: a decoder may raise anything on a malformed file.
    except Exception as error:
        raise ImageError(f"{path} can't be opened as a picture: {type(error).__name__}: {error}.") from error


def _decoded(image: PIL.Image.Image, name: str, pixel_limit: int, *, turn: bool) -> PIL.Image.Image:
    check_pixels(image.width, image.height, pixel_limit, name)
    try:
        image.load()
        if turn and image.getexif().get(_ORIENTATION, 1) != 1:
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # see _open_file
        raise ImageError(
            f"{name} can't be decoded: {type(error).__name__}: {error}. It is truncated or damaged; download it again."
        ) from error
    return _eight_bits(image, name) if image.mode.startswith(("I", "F")) else image


def _eight_bits(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Scale deep greyscale to 8 bits; Pillow's own conversion would make every value above 255 white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name} has values from {values.min()} to {values.max()} (mode {image.mode}), expected 0…65535: which of "
            "them are black and white is unknown. Scale it to 8 bits first."
        )
    # Mode "I" is 16 bits from a file, and 8 bits if a program widened a greyscale picture.
    if image.mode == "I" and values.max() <= 255:
        return PIL.Image.fromarray(values.astype(np.uint8))
    return PIL.Image.fromarray((values.astype(np.uint32) * 255 // 65535).astype(np.uint8))


def _from_array(array: npt.NDArray[Any] | Tensor) -> PIL.Image.Image:
    if isinstance(array, Tensor):
        array = array.detach().cpu().numpy()
    if array.dtype != np.uint8:
        raise ImageError(
            f"expected an array of uint8 (0…255), got {array.dtype}. Multiply floats in 0…1 by 255 and round; pass "
            "pixels that are ready for the model to ImageTokenizer.encode_pixels."
        )
    if array.ndim == 3 and array.shape[2] not in _MODES and array.shape[0] in _MODES:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _MODES):
        raise ImageError(
            f"expected an array [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, got shape {list(array.shape)}."
        )
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def pixels_to_images(pixels_BCHW: Tensor) -> list[PIL.Image.Image]:
    """Convert pixels in −1…1 to PIL images as Meta's code does: clamped, (x + 1) / 2 · 255, truncated.

    Raises ``ImageError`` unless they have 1, 3 or 4 channels.
    """
    if pixels_BCHW.shape[1] not in _MODES:
        raise ImageError(f"got pixels of {pixels_BCHW.shape[1]} channels, expected 1, 3 or 4.")
    unit_BCHW = (pixels_BCHW.detach().float().clamp(-1, 1) + 1) / 2
    bytes_BHWC = (unit_BCHW * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [bytes_to_image(bytes_HWC) for bytes_HWC in bytes_BHWC]


def bytes_to_image(bytes_HWC: npt.NDArray[np.uint8]) -> PIL.Image.Image:
    """Convert an array [H, W, C] of 1, 3 or 4 channels to a PIL image."""
    return PIL.Image.fromarray(bytes_HWC[:, :, 0] if bytes_HWC.shape[2] == 1 else bytes_HWC)


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"PIXEL_LIMIT": "chameleon_vq.pictures:MAX_PIXELS"})
