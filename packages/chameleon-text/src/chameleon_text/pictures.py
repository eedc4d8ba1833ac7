"""Pictures in JSON: codes, a path, or a PNG in base64. PIL is imported only when pixels are read or written."""

from __future__ import annotations

import base64
import binascii
import io
import os
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from .errors import DocumentError, MissingPackageError
from .segments import Image

MAX_PIXELS = 89_478_485
"""The most pixels that a picture in JSON may have: PIL's own limit, a quarter of a gigabyte in RGB."""

_SOURCES = ("codes", "image", "url", "image_url", "path", "base64")


def image_fields(segment: Image) -> dict[str, Any]:
    """The JSON fields of a picture: its codes and its path where it has them, else its pixels as PNG in base64.

    A picture with none of these has null codes: a part with no field at all waits for a picture given beside it.
    """
    fields: dict[str, Any] = {}
    if segment.codes is not None:
        fields["codes"] = list(segment.codes)
    elif segment.image is None:
        fields["codes"] = None
    if isinstance(segment.image, (str, os.PathLike)):
        fields["path"] = os.fspath(segment.image)
    elif segment.image is not None and segment.codes is None:
        fields["base64"] = _png(segment.image)
    return fields


def image_of_fields(fields: dict[str, Any]) -> Image:
    """The picture of a JSON object, or of a chat message's part.

    The picture is under ``codes``, ``path``, ``base64``, ``url``, ``image`` or ``image_url``, the ecosystem's names.
    Raises ``DocumentError`` where it is under none or several of them (``codes`` may have a picture beside them),
    can't be read, or lies on the network.
    """
    sources = [name for name in _SOURCES if fields.get(name) is not None and name != "codes"]
    codes = fields.get("codes")
    if len(sources) > 1:
        raise DocumentError(f"an image part has several pictures: {', '.join(sources)}.")
    if codes is not None and not isinstance(codes, (list, tuple)):
        raise DocumentError(f"the codes of an image part are a list of integers, not {type(codes).__name__}.")
    if not sources:
        return Image(codes=None if codes is None else tuple(codes))
    source = fields[sources[0]]
    if isinstance(source, dict):  # {"image_url": {"url": ...}}
        source = source.get("url")
    if sources[0] == "base64":
        picture = _picture(source)
    elif isinstance(source, str) and sources[0] != "path":
        picture = _of_url(source)
    else:
        picture = source
    return Image(picture, None if codes is None else tuple(codes))


def _of_url(url: str) -> Any:
    scheme = urlsplit(url).scheme
    if scheme == "data":
        header, _, data = url.partition(",")
        if not header.endswith(";base64"):
            raise DocumentError("a picture's data: URL must be in base64.")
        return _picture(data)
    if scheme == "file":
        return Path(unquote(urlsplit(url).path))
    if scheme in ("http", "https", "ftp", "s3"):
        raise DocumentError(f"{url!r} is on the network, and this package reads none of it: fetch the picture first.")
    return url


def _png(picture: Any) -> str:
    image_module = _pil()
    if isinstance(picture, np.ndarray):
        picture = image_module.fromarray(picture)
    if picture.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
        picture = picture.convert("RGB")  # PNG has no CMYK, YCbCr, Lab or float
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(data: Any) -> Any:
    image_module = _pil()
    if not isinstance(data, str):
        raise DocumentError(f"a picture in base64 is a str, not {type(data).__name__}.")
    try:
        picture = image_module.open(io.BytesIO(base64.b64decode(data, validate=True)))
        if picture.width * picture.height > MAX_PIXELS:
            raise DocumentError(
                f"a picture of {picture.width}×{picture.height} pixels; at most {MAX_PIXELS} are read from JSON."
            )
        picture.load()
    except binascii.Error as error:
        raise DocumentError(f"a picture's base64 is broken: {error}.") from error
    except DocumentError:
        raise
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise DocumentError(f"a picture is too large: {error}") from error
    # OSError: not a picture, or cut short. The others are what PIL's decoders raise for broken ones.
    except (OSError, SyntaxError, ValueError) as error:
        raise DocumentError(f"a picture's base64 holds no picture that can be read: {error}.") from error
    return picture


def _pil() -> ModuleType:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingPackageError(
            "pixels in JSON need Pillow: pip install pillow. Codes and paths need nothing."
        ) from error
    return PIL.Image
