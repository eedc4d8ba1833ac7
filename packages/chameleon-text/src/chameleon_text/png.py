"""Pixels as PNG, for documents in JSON and in notebooks. Pillow is imported only when there are pixels to write."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

from .errors import MissingPackageError


def png_of(picture: Any, *, longest_side: int | None = None) -> bytes:
    """Return a PIL image, or a uint8 array of shape (H, W, C), as a PNG file.

    A picture that has a longer side than ``longest_side`` pixels is reduced to it. Raises ``MissingPackageError``
    without Pillow.
    """
    import numpy as np

    image_module = pillow()
    if isinstance(picture, np.ndarray):
        picture = image_module.fromarray(picture)
    if picture.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
        picture = picture.convert("RGB")  # PNG has no CMYK, YCbCr, Lab or float
    if longest_side is not None and max(picture.size) > longest_side:
        width, height = (max(1, side * longest_side // max(picture.size)) for side in picture.size)
        smooth = picture.mode in ("L", "LA", "RGB", "RGBA")
        resampling = image_module.Resampling.BOX if smooth else image_module.Resampling.NEAREST
        picture = picture.resize((width, height), resampling)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def pillow() -> ModuleType:
    """Return the module ``PIL.Image``. Raises ``MissingPackageError`` where Pillow isn't installed."""
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingPackageError(
            "pixels in JSON need Pillow: pip install pillow. Codes and paths work without it."
        ) from error
    return PIL.Image
