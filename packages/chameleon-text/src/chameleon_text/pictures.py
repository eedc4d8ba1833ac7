"""Pictures in JSON: codes, a path, or a PNG in base64."""

from __future__ import annotations

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import DocumentError
from .png import pillow, png_of
from .segments import Image

MAX_PIXELS = 89_478_485
"""The most pixels that a picture in JSON may have: Pillow's own limit, a quarter of a gigabyte in RGB."""

IMAGE_FIELDS = ("codes", "grid", "image", "url", "image_url", "path", "base64")
"""What a part of type ``image`` may have."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read from base64: no PostScript, for which Pillow starts a program."""


def image_fields(segment: Image) -> dict[str, Any]:
    """Return the JSON fields of a picture: its codes and its path if it has them, else its pixels as PNG in base64.

    A picture with none of these has null codes, because a part without any field takes a picture given beside it.
    """
    fields: dict[str, Any] = {}
    if segment.codes is not None:
        fields["codes"] = list(segment.codes)
        if segment.grid is not None:
            fields["grid"] = list(segment.grid)
    elif segment.image is None:
        fields["codes"] = None
    if isinstance(segment.image, (str, os.PathLike)):
        fields["path"] = os.fspath(segment.image)
    elif segment.image is not None and segment.codes is None:
        fields["base64"] = base64.b64encode(png_of(segment.image)).decode("ascii")
    return fields


def image_of_fields(fields: dict[str, Any]) -> Image:
    """Return the picture of a JSON object, or of a chat message's part.

    The picture is under ``codes``, ``path``, ``base64``, ``url``, ``image`` or ``image_url``, the names that chat
    messages commonly have. Raises ``DocumentError`` where it is under several of them (``codes`` may have a picture
    beside them), can't be read, or is on the network.
    """
    sources = [name for name in IMAGE_FIELDS if fields.get(name) is not None and name not in ("codes", "grid")]
    codes = fields.get("codes")
    if len(sources) > 1:
        raise DocumentError(f"an image part has several pictures: {', '.join(sources)}. Leave one.")
    if codes is not None and not isinstance(codes, (list, tuple)):
        raise DocumentError(f"the codes of an image part must be a list of integers, not {type(codes).__name__}.")
    if not sources:
        return Image(codes=None if codes is None else tuple(codes), grid=fields.get("grid"))
    source = fields[sources[0]]
    if isinstance(source, dict):  # {"image_url": {"url": ...}}
        more = sorted(str(name) for name in source if name not in ("url", "detail"))
        if more or source.get("detail", "auto") != "auto":
            raise DocumentError(f"{sources[0]} of an image part has {more or 'a detail'}, expected 'url' alone.")
        source = source.get("url")
    if sources[0] == "base64":
        picture = _picture(source)
    elif isinstance(source, str) and sources[0] != "path":
        picture = _of_url(source)
    else:
        picture = source
    return Image(picture, None if codes is None else tuple(codes), fields.get("grid"))


def _of_url(url: str) -> Any:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise DocumentError(f"the URL of a picture is not one: {error}.") from error
    if scheme == "data":
        header, _, data = url.partition(",")
        if not header.endswith(";base64"):
            raise DocumentError("a picture's data: URL must be in base64.")
        return _picture(data)
    if scheme == "file":
        return Path(unquote(urlsplit(url).path))
    if scheme in ("http", "https", "ftp", "s3"):
        raise DocumentError(
            f"{url!r:.100} is on the network, which this package doesn't read. Fetch the picture and pass its path."
        )
    return url


def _picture(data: Any) -> Any:
    image_module = pillow()
    if not isinstance(data, str):
        raise DocumentError(f"a picture in base64 must be a str, not {type(data).__name__}.")
    try:
        picture = image_module.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise DocumentError(
                f"a picture has {picture.width}×{picture.height} pixels; at most {MAX_PIXELS} are read from JSON."
            )
        picture.load()
    except binascii.Error as error:
        raise DocumentError(f"a picture's base64 is broken: {error}.") from error
    except DocumentError:
        raise
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise DocumentError(f"a picture is too large: {error}") from error
    except Exception as error:  # not a picture, or cut short; Pillow's decoders raise much for broken ones
        raise DocumentError(f"a picture's base64 holds no picture that can be read: {error}.") from error
    return picture
