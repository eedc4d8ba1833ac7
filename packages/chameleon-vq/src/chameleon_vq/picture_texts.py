"""Pictures that are given as text: paths, data URLs and base64."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import PIL.Image

from .errors import ImageError, MissingFileError
from .picture_files import is_kind, open_data, open_file

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/", re.ASCII)
"""A scheme of more than one letter, so that ``C:/a.png`` is a path."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*", re.ASCII)
_SHORTEST = 64
"""The shortest text that is taken for base64, in characters; no picture file is smaller than 48 bytes."""


def open_text(text: str, *, pixel_limit: int, exif: bool) -> PIL.Image.Image:
    """Open the picture that a text is: a path, a ``file:`` URL, a ``data:`` URL, or the file itself in base64.

    An existing file is a path, whatever else its name could be. Raises ``ImageError``, and ``MissingFileError`` for a
    path without a file and for a URL of the network, which nothing here fetches.
    """
    if text[:5].lower() == "data:":
        return open_data(_of_data_url(text), "the data URL", pixel_limit=pixel_limit, exif=exif)
    scheme = _URL.match(text)
    if scheme is not None and not is_kind(Path(text), "file"):
        if scheme[1].lower() != "file":
            raise MissingFileError(
                f"{text:.200} is on the network: only local files are read, so that a prompt can't make this machine "
                "fetch anything. Download it, and pass the path, the bytes in base64 or a PIL image."
            )
        return open_file(Path(unquote(urlsplit(text).path)), pixel_limit=pixel_limit, exif=exif)
    if len(text) >= _SHORTEST and _BASE64.fullmatch(text) and not is_kind(Path(text), "file"):
        try:
            return open_data(_of_base64(text, "the text"), "the text in base64", pixel_limit=pixel_limit, exif=exif)
        except ImageError as error:
            raise ImageError(
                f"a text of {len(text):,} characters that starts with {text[:24]!r} is neither the path of a file nor "
                f"a picture in base64: {error}"
            ) from error
    return open_file(Path(text), pixel_limit=pixel_limit, exif=exif)


def _of_data_url(url: str) -> bytes:
    header, comma, data = url.partition(",")
    if not comma:
        raise ImageError(f"the data URL {url:.40}… has no comma; expected 'data:image/png;base64,…'.")
    if header.lower().endswith(";base64"):
        return _of_base64(unquote(data), "the data URL")
    return unquote_to_bytes(data)


def _of_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{name} isn't base64: {str(error).rstrip('.')}.") from error
