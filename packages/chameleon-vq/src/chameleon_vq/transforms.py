"""The steps from a PIL image to pixels: convert to RGB, resize, crop, scale.

Each says which implementation it matches to the last bit. Shapes: H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import PIL.Image

from .errors import ImageError

Rounding = Literal["transformers", "meta"]
Blend = Literal["pillow", "nearest", "truncate"]
Bytes = npt.NDArray[np.uint8]


def to_rgb(image: PIL.Image.Image, *, blend: Blend) -> PIL.Image.Image:
    """Convert any mode to RGB, transparency blended onto white. Raises ``ImageError`` if Pillow can't convert the mode.

    ``blend`` is "pillow" for Pillow's integer arithmetic (``transformers``, for PIL images), "nearest" to round
    (``transformers``, for arrays), or "truncate" (Meta).
    """
    try:
        if "A" not in image.getbands() and image.info.get("transparency") is None:
            return image if image.mode == "RGB" else image.convert("RGB")
        image = image.convert("RGBA")
    except Exception as error:  # Pillow raises several for unsuitable modes and transparency
        raise ImageError(f"can't convert a picture of mode {image.mode} to RGB: {error}.") from error
    if blend == "pillow":
        white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, image).convert("RGB")
    values_HWC = np.asarray(image)
    alpha_HW1 = values_HWC[:, :, 3:] / 255
    blended_HWC = alpha_HW1 * values_HWC[:, :, :3] + (1 - alpha_HW1) * 255
    if blend == "nearest":
        blended_HWC = np.round(blended_HWC)
    return PIL.Image.fromarray(blended_HWC.astype(np.uint8))


def target_size(height: int, width: int, size: Mapping[str, int], *, rounding: Rounding) -> tuple[int, int]:
    """Return the height and width to which ``size`` resizes a picture.

    ``rounding`` is "transformers", which truncates the longer side, or "meta", which rounds it.
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    short, long = min(height, width), max(height, width)
    new_short = size["shortest_edge"]
    if rounding == "meta":
        new_long = round(new_short / short * long)
    else:
        new_long = int(new_short * long / short)
    if "longest_edge" in size:
        new_short, new_long = _bounded(short, long, new_short, size["longest_edge"])
    return (new_long, new_short) if width <= height else (new_short, new_long)


def _bounded(short: int, long: int, new_short: int, limit: int) -> tuple[int, int]:
    """Return the shorter and the longer side if the longer one may not exceed ``limit``."""
    exact = float(new_short)
    if long / short * new_short > limit:
        exact = limit * short / long
        new_short = round(exact)
    if short == new_short:
        return short, long
    return new_short, int(exact * long / short)


def center_crop(bytes_HWC: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Crop the centre of a picture, with black margins if it is smaller, as ``transformers`` does to the pixel."""
    found_height, found_width, channels = bytes_HWC.shape
    if height <= found_height and width <= found_width:
        top, left = (found_height - height) // 2, (found_width - width) // 2
        return bytes_HWC[top : top + height, left : left + width]
    # Pad to the larger of both sizes, an odd row or column before the picture, then crop.
    full_height, full_width = max(height, found_height), max(width, found_width)
    above, before = -(-(full_height - found_height) // 2), -(-(full_width - found_width) // 2)
    padded_HWC = np.zeros((full_height, full_width, channels), dtype=bytes_HWC.dtype)
    padded_HWC[above : above + found_height, before : before + found_width] = bytes_HWC
    top = max(0, (found_height - height) // 2 + above)
    left = max(0, (found_width - width) // 2 + before)
    return padded_HWC[top : top + height, left : left + width]


def byte_values(
    channels: int,
    *,
    factor: float | None,
    normalization: tuple[Any, Any] | None,
    rounding: Rounding,
) -> npt.NDArray[Any]:
    """Return the pixel value of each of the 256 bytes, [C, 256], so that a picture is scaled by look-up.

    A byte is multiplied by ``factor``, then the mean is subtracted and the result divided by the deviation, each [C].
    The table is float32, or uint8 if both are None. ``transformers`` computes the product in float64 and the rest in
    float32, Meta everything in float64.
    """
    bytes_256 = np.arange(256, dtype=np.uint8)
    if factor is None and normalization is None:
        return np.tile(bytes_256, (channels, 1))
    dtype = np.float64 if rounding == "meta" else np.float32
    # Overflow becomes infinity, which the caller refuses.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _scaled_bytes(bytes_256, channels, factor, normalization, dtype)


def _scaled_bytes(
    bytes_256: Bytes, channels: int, factor: float | None, normalization: tuple[Any, Any] | None, dtype: Any
) -> npt.NDArray[Any]:
    values_256 = bytes_256.astype(np.float64) * (1.0 if factor is None else factor)
    values_C256 = np.tile(values_256.astype(dtype), (channels, 1))
    if normalization is not None:
        mean_C1, deviation_C1 = (np.array(each, dtype=dtype)[:, None] for each in normalization)
        values_C256 = (values_C256 - mean_C1) / deviation_C1
    return values_C256.astype(np.float32)


def check_sides(height: Any, width: Any, *, stride: int) -> None:
    """Raise ``ImageError`` where a picture's sides in pixels don't divide into positions of ``stride`` pixels."""
    for side in (height, width):
        if not isinstance(side, int) or side < 1:
            raise ImageError(f"a picture's side is {side!r} pixels, expected a multiple of {stride}.")
    if height % stride or width % stride:
        below, above = min(height, width) // stride * stride, -(-max(height, width) // stride) * stride
        raise ImageError(
            f"a picture of {height}×{width} pixels doesn't divide into positions of {stride}×{stride}; expected "
            f"both sides to be multiples of {stride}, such as {max(below, stride)} or {above}."
        )
