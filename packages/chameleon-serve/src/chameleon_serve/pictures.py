"""Pictures on the wire: data URLs to pictures, within limits, and pictures to data URLs."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Any

import PIL.Image

from chameleon_text.pictures import FORMATS

from .errors import RequestError


def read_picture(source: Any, where: str, max_pixels: int) -> PIL.Image.Image:
    """Return the picture of a data URL, or of base64 alone; ``where`` is the field that it stands in.

    Its size is known before its pixels are read. Raises ``RequestError`` where it is no picture, has more than
    ``max_pixels``, or is a URL: none is ever opened.
    """
    if not isinstance(source, str):
        raise RequestError(f"the picture {where} is a {type(source).__name__}, expected a data: URL.", param=where)
    header, comma, data = source.partition(",")
    if not comma:
        data = source
        if ":" in source[:64] or source.startswith(("/", ".")):
            raise _refused(source, where)
    elif not header.startswith("data:"):
        raise _refused(source, where)
    elif not header.endswith(";base64"):
        raise RequestError(f"the data: URL of {where} must be in base64.", param=where, code="invalid_image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of its own limit of pixels and of odd metadata
            picture = PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=FORMATS)
            if picture.width * picture.height > max_pixels:
                raise RequestError(
                    f"the picture {where} has {picture.width}×{picture.height} pixels; at most {max_pixels:,} are "
                    "read. Send a smaller one.",
                    param=where,
                    code="image_too_large",
                )
            picture.load()
    except RequestError:
        raise
    except binascii.Error as error:
        raise RequestError(f"the base64 of {where} is broken: {error}.", param=where, code="invalid_image") from error
    except Exception as error:  # Pillow's decoders raise much for broken pictures
        raise RequestError(
            f"{where} holds no picture that can be read; expected one of {', '.join(FORMATS)}.",
            param=where,
            code="invalid_image",
        ) from error
    return picture


def png_bytes(picture: PIL.Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def base64_png(picture: PIL.Image.Image) -> str:
    """Return a picture as a PNG file in base64."""
    return base64.b64encode(png_bytes(picture)).decode("ascii")


def data_url(picture: PIL.Image.Image) -> str:
    """Return a picture as a data URL."""
    return f"data:image/png;base64,{base64_png(picture)}"


def _refused(source: str, where: str) -> RequestError:
    return RequestError(
        f"the picture {where} is {source[:60]!r}; this server opens no URLs and no files. Send the picture itself, as "
        "data:image/png;base64,…",
        param=where,
        code="invalid_image_url",
    )
