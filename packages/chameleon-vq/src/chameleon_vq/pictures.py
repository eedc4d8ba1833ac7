"""Pictures as people have them (files, PIL images, arrays), and pixels back to pictures.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from .errors import ConfigError, ImageError, MissingFileError

T = TypeVar("T")
Picture = str | os.PathLike[str] | PIL.Image.Image | npt.NDArray[Any] | Tensor
"""A file, a PIL image, or uint8 values [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels."""

PIXEL_LIMIT = 89_478_485
"""The default limit of a picture's pixels: a quarter of a gigabyte in RGB, where Pillow begins to warn."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
"""What counts as a picture in a folder."""

_ORIENTATION = 0x0112  # the EXIF tag
_RAISE_LIMIT = (
    "If you trust it, raise pixel_limit of the image processor, and PIL.Image.MAX_IMAGE_PIXELS, Pillow's own limit."
)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def list_pictures(images: Picture | Iterable[Picture | Iterable[Picture]]) -> list[Picture]:
    """One picture, several, several lists of them, or an array [B, H, W, C]: always a flat list."""
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
    """The picture files of a folder and its subfolders, sorted. Raises ``MissingFileError``."""
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError(f"{root} is not a folder.")
    return (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter; few are taken ahead. Raises ``ConfigError``."""
    if size < 1:
        raise ConfigError(f"the batch size is {size}, expected 1 or more.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def open_picture(source: Picture, *, pixel_limit: int, exif: bool | None) -> PIL.Image.Image:
    """A decoded PIL image of at most ``pixel_limit`` pixels; of an animation the first frame.

    ``exif`` turns the picture as its EXIF orientation says: always, never, or (None) files only.
    Raises ``ImageError``, ``MissingFileError``.
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
    """Raises ``ImageError`` where a picture is empty or has more pixels than the limit."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width}×{height} pixels.")
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
        raise ImageError(f"{path} is empty (0 bytes), expected a picture file; fetch it again.")
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
    # Any other exception too: what a decoder raises at a hostile file is not limited to one class.
    except Exception as error:
        raise ImageError(f"{path} can't be opened as a picture: {type(error).__name__}: {error}") from error


def _decoded(image: PIL.Image.Image, name: str, pixel_limit: int, *, turn: bool) -> PIL.Image.Image:
    check_pixels(image.width, image.height, pixel_limit, name)
    try:
        image.load()
        if turn and image.getexif().get(_ORIENTATION, 1) != 1:
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # see _open_file
        raise ImageError(
            f"{name} can't be decoded: {type(error).__name__}: {error}. It is truncated or damaged; fetch it again."
        ) from error
    return _eight_bits(image, name) if image.mode.startswith(("I", "F")) else image


def _eight_bits(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Deep greyscale to 8 bits by its range; Pillow's own conversion would make everything above 255 white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name} holds values from {values.min()} to {values.max()} (mode {image.mode}), whose black and white "
            "are unknown. Scale it to 8 bits first."
        )
    # "I" is 16 bits from a file, and 8 bits where a program widened a greyscale picture.
    if image.mode == "I" and values.max() <= 255:
        return PIL.Image.fromarray(values.astype(np.uint8))
    return PIL.Image.fromarray((values.astype(np.uint32) * 255 // 65535).astype(np.uint8))


def _from_array(array: npt.NDArray[Any] | Tensor) -> PIL.Image.Image:
    if isinstance(array, Tensor):
        array = array.detach().cpu().numpy()
    if array.dtype != np.uint8:
        raise ImageError(
            f"expected an array of uint8 (0…255), got {array.dtype}. Multiply floats in 0…1 by 255 and round; pixels "
            "that are ready for the model go to ImageTokenizer.encode_pixels."
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
    """Pixels −1…1 to PIL images, as Meta draws them: clamped, (x + 1) / 2 · 255, the fraction dropped."""
    if pixels_BCHW.shape[1] not in _MODES:
        raise ImageError(f"can't draw {pixels_BCHW.shape[1]} channels, only 1, 3 or 4.")
    unit_BCHW = (pixels_BCHW.detach().float().clamp(-1, 1) + 1) / 2
    bytes_BHWC = (unit_BCHW * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [bytes_to_image(bytes_HWC) for bytes_HWC in bytes_BHWC]


def bytes_to_image(bytes_HWC: npt.NDArray[np.uint8]) -> PIL.Image.Image:
    """An array of 1, 3 or 4 channels as a PIL image."""
    return PIL.Image.fromarray(bytes_HWC[:, :, 0] if bytes_HWC.shape[2] == 1 else bytes_HWC)
