"""Picture files: which ones a folder has, and how one is opened and decoded. Shapes: C channels, H W pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from .bare_files import without_metadata
from .errors import ChameleonVQError, ImageError, ImageWarning, MissingFileError

FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "PCX", "PSD", "QOI",
    "SGI", "TGA",
)  # fmt: skip
"""Pillow's formats that are read: those of pixels. Formats that run a program, such as PostScript, are not."""

SUFFIXES = {
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".icb", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi",
    ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp",
}  # fmt: skip
"""File name suffixes of the pictures that are read from a folder: those of ``FORMATS``."""

_RAISE_LIMIT = (
    "If you trust the file, raise pixel_limit of the image processor, and Pillow's limit PIL.Image.MAX_IMAGE_PIXELS."
)
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_OF_MACOS = b"\0\5\x16\7"  # AppleDouble: what macOS writes beside a file, under the same name after "._"
_NAMED = 10  # files that a warning names
_AT_A_TIME = 2**20  # values that are scaled at a time, so that wide copies stay small beside the picture


def pictures_in(
    folder: str | os.PathLike[str], *, on_skip: Callable[[Path, str], None] | None = None
) -> Iterator[Path]:
    """Return the picture files of a folder and its subfolders, sorted; folders behind links are read once.

    What is left out (files of other kinds, broken links, folders that can't be read) is passed to ``on_skip`` with the
    reason; without ``on_skip`` an ``ImageWarning`` names it. Raises ``MissingFileError``.
    """
    root = Path(folder)
    if not is_kind(root, "dir"):
        raise MissingFileError(f"{root} is not a folder; expected an existing folder of pictures.")
    found: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    for path in _files_below(root, skipped):
        reason = _why_no_picture(path)
        if reason is None:
            found.append(path)
        else:
            skipped.append((path, reason))
    skipped.sort()
    if on_skip is not None:
        for path, reason in skipped:
            on_skip(path, reason)
    elif skipped:
        rest = f", and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        named = ", ".join(f"{path.relative_to(root)} ({reason})" for path, reason in skipped[:_NAMED])
        warnings.warn(f"left out of {root}: {named}{rest}.", ImageWarning, stacklevel=2)
    return iter(sorted(found))


def is_kind(path: Path, kind: str) -> bool:
    """Return whether a path is a file or folder (``kind`` "file" or "dir"); False for what can't be a path at all."""
    try:
        return os.path.isdir(path) if kind == "dir" else os.path.isfile(path)
    except (OSError, ValueError):  # too long, not allowed, or with a zero byte
        return False


def open_file(path: Path, *, pixel_limit: int, exif: bool) -> PIL.Image.Image:
    """Open and decode a picture file, rotated by its EXIF orientation if ``exif``; of an animation the first frame.

    Metadata that can't be read is left out with an ``ImageWarning``. Raises ``ImageError``, ``MissingFileError``.
    """
    _check_file(path)
    try:
        image = _read(path, str(path), pixel_limit)
    except ChameleonVQError:
        raise
    except Exception as error:
        image = _read_bare(path, pixel_limit, error)
    return upright(image, str(path)) if exif else image


def upright(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Rotate an image by its EXIF orientation; where that can't be read it stays, with an ``ImageWarning``."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # whatever the parser raises on rubbish
        warnings.warn(
            f"the EXIF data of {name} can't be read ({_line(error)}), so the picture isn't rotated by it.",
            ImageWarning,
            stacklevel=2,
        )
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def check_pixels(width: int, height: int, limit: int, name: str) -> None:
    """Raise ``ImageError`` if a picture is empty or has more pixels than the limit."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width}×{height} pixels, expected at least 1×1.")
    if width * height > limit:
        raise ImageError(
            f"{name} has {width}×{height} = {width * height:,} pixels, more than the limit of {limit:,}. {_RAISE_LIMIT}"
        )


def _files_below(root: Path, skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    """Yield the files below a folder; real folders before those behind links, each once."""
    seen: set[tuple[int, int]] = set()
    folders, linked = [root], list[Path]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped.append((folder, error.strerror or "can't be read"))
            continue
        if (status.st_dev, status.st_ino) in seen:
            skipped.append((folder, "a link to a folder that is read already"))
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = folder / entry.name
            if not is_kind(path, "dir"):
                yield path
            elif entry.is_symlink():
                linked.append(path)
            else:
                folders.append(path)


def _why_no_picture(path: Path) -> str | None:
    """Return why a file isn't taken for a picture, or None."""
    if path.suffix.lower() not in SUFFIXES:
        return "not the suffix of a picture that is read"
    if not is_kind(path, "file"):
        return "a broken link" if path.is_symlink() else "not a regular file"
    if path.name.startswith("._"):
        try:
            with path.open("rb") as file:
                return "metadata of macOS, not a picture" if file.read(4) == _OF_MACOS else None
        except OSError:
            return None  # reading the picture will say why
    return None


def open_data(data: bytes, name: str, *, pixel_limit: int, exif: bool) -> PIL.Image.Image:
    """Open and decode the bytes of a picture file, which errors call ``name``. Raises ``ImageError``."""
    try:
        image = _read(BytesIO(data), name, pixel_limit)
    except ChameleonVQError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{name} holds no picture of a format that is read here ({', '.join(_formats())}).") from error
    except Exception as error:  # a decoder may raise anything on a malformed file
        raise ImageError(f"{name} can't be decoded: {_line(error)}. It is truncated or damaged.") from error
    return upright(image, name) if exif else image


def _check_file(path: Path) -> None:
    """Raise the error that fits unless a path is a file that isn't empty."""
    name = str(path)
    if is_kind(path, "dir"):
        raise ImageError(f"{path} is a folder, expected a picture file; ImageTokenizer.encode_folder reads folders.")
    try:
        exists, size = os.path.exists(path), path.stat().st_size if os.path.exists(path) else 0
    except (OSError, ValueError) as error:
        raise ImageError(
            f"a text of {len(name):,} characters that starts with {name[:24]!r} can't be the path of a picture file "
            f"({getattr(error, 'strerror', None) or error}). Expected a path; decode base64 to a PIL image first."
        ) from error
    if not exists:
        raise MissingFileError(f"there is no picture file {path}.")
    if not is_kind(path, "file"):
        raise ImageError(f"{path} is not a regular file, expected a picture file.")
    if size == 0:
        raise ImageError(f"{path} is empty (0 bytes), expected a picture file; download it again.")


class _BoundedReader(BufferedReader):
    """A file whose ``read`` makes no room for more bytes than there are: some formats ask for what a number says."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes; all that are left for a negative number or None."""
        if size is None or size < 0:
            return super().read()
        return super().read(min(size, max(self._size - self.tell(), 0)))


def _read(source: Path | BytesIO, name: str, pixel_limit: int) -> PIL.Image.Image:
    """Open and decode a file. Raises ``ImageError`` if it is too large, and whatever Pillow raises."""
    with source if isinstance(source, BytesIO) else _BoundedReader(source) as file:
        return _decoded(file, name, pixel_limit)


def _decoded(file: IO[bytes], name: str, pixel_limit: int) -> PIL.Image.Image:
    try:
        image: PIL.Image.Image = PIL.Image.open(file, formats=_formats())
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has too many pixels: {error} {_RAISE_LIMIT}") from error
    with image:
        check_pixels(image.width, image.height, pixel_limit, name)
        raw_mode = _raw_mode(image)
        image.load()
        if image.format == "PNG" and "transparency" in image.info:
            return _with_transparency(image, raw_mode, file)
    return image


def _read_bare(path: Path, pixel_limit: int, error: Exception) -> PIL.Image.Image:
    """Read a file without its metadata, with a warning; if that fails too, raise the first error as ``ImageError``."""
    try:
        bare = without_metadata(path)
        image = None if bare is None else _read(bare, str(path), pixel_limit)
    except ImageError:
        raise
    except Exception:  # a decoder may raise anything on a malformed file
        image = None
    if image is None:
        raise _unreadable(path, error) from error
    warnings.warn(
        f"metadata of {path} can't be read ({_line(error)}) and were left out; the pixels are complete.",
        ImageWarning,
        stacklevel=3,
    )
    return image


def _unreadable(path: Path, error: Exception) -> ImageError:
    size = f"{path.stat().st_size:,} bytes"
    if isinstance(error, PIL.UnidentifiedImageError):
        return ImageError(
            f"{path} is not a picture of a format that is read here ({', '.join(_formats())}): {size} of something "
            "else. Convert it, or download it again."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(f"{path} can't be opened as a picture: {error.strerror or error}.")
    return ImageError(
        f"{path} ({size}) can't be decoded: {_line(error)}. It is truncated or damaged; download it again."
    )


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this build of Pillow has."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _raw_mode(image: PIL.Image.Image) -> object:
    tiles: Any = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else None
    return arguments[0] if isinstance(arguments, tuple) and arguments else arguments


def _with_transparency(image: PIL.Image.Image, raw_mode: object, file: IO[bytes]) -> PIL.Image.Image:
    """Return a PNG with the right transparency where Pillow compares a key of the file's depth with 8-bit values."""
    key = image.info["transparency"]
    if raw_mode in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = (key & 3) * 85 if raw_mode == "L;2" else (key & 15) * 17
    elif raw_mode == "RGB;16B" and isinstance(key, tuple):
        # Pillow decodes the high bytes; the low ones are decoded by taking the file for one of the other byte order.
        file.seek(0)
        low: Any = PIL.Image.open(file, formats=["PNG"])
        with low:
            low.tile = [low.tile[0]._replace(args="RGB;16L")]
            low.load()
        deep_HW3 = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
        return _transparent_where((deep_HW3 == np.array(key, dtype=np.uint16)).all(axis=2), image)
    elif image.mode == "I;16" and isinstance(key, int):
        return _transparent_where(np.asarray(image) == key, eight_bits(image, "the picture"), image.info)
    return image


def _transparent_where(
    mask_HW: npt.NDArray[np.bool_], image: PIL.Image.Image, info: Mapping[Any, Any] | None = None
) -> PIL.Image.Image:
    info = {name: value for name, value in (info or image.info).items() if name != "transparency"}
    image.info.pop("transparency", None)
    result = image.convert("RGBA")
    result.putalpha(PIL.Image.fromarray(np.where(mask_HW, 0, 255).astype(np.uint8)))
    result.info.update(info)
    return result


def eight_bits(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Scale deep greyscale to 8 bits; Pillow's own conversion would make every value above 255 white."""
    extremes = [(band.min(), band.max()) for _, band in _bands(image)]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if image.mode == "F" or not (low >= 0 and high <= 65535):
        raise ImageError(
            f"{name} has values from {low} to {high} (mode {image.mode}), expected 0…65535: which of "
            "them are black and white is unknown. Scale it to 8 bits first."
        )
    scaled = PIL.Image.new("L", image.size)
    for top, band in _bands(image):
        # Mode "I" is 16 bits from a file, and 8 bits if a program widened a greyscale picture.
        values = band if image.mode == "I" and high <= 255 else band.astype(np.uint32) * 255 // 65535
        scaled.paste(PIL.Image.fromarray(values.astype(np.uint8)), (0, top))
    return scaled


def _bands(image: PIL.Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield a picture's values a few rows at a time, with the first row's number."""
    rows = max(_AT_A_TIME // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def _line(error: Exception) -> str:
    """Return an error as one line that can end a clause."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
