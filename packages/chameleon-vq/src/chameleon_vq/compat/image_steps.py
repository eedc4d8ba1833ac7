"""The steps of the image processor one by one, as methods that image processors of ``transformers`` have.

Shapes: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..transforms import center_crop
from .image_arguments import overridden


class ImageSteps:
    """The part of ``ChameleonImageProcessor`` that does single steps, on one picture as an array [C, H, W].

    What is left of the picture's bytes after a step is of the same type; a tensor gives a tensor.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> Self:
            """Return a copy with some fields changed."""

        def _resized_size(self, image: PIL.Image.Image) -> tuple[int, int]:
            """Return the width and height that a picture is resized to."""

    def resize(self, image: Any, size: Mapping[str, int] | int, resample: int | None = None) -> Any:
        """Resize a picture of bytes to ``size``, which is given as to ``preprocess``.

        ``resample`` is a value of ``PIL.Image.Resampling``; None is bilinear, as in ``transformers``. Raises
        ``ImageError`` for what isn't bytes [C, H, W] of 1, 3 or 4 channels.
        """
        bytes_CHW = _array(image)
        if bytes_CHW.dtype != np.uint8 or len(bytes_CHW) not in (1, 3, 4):
            raise ImageError(
                f"resize got {bytes_CHW.dtype} {list(bytes_CHW.shape)}, expected uint8 [C, H, W] with 1, 3 or 4 "
                "channels. Resize before rescaling."
            )
        resample = PIL.Image.Resampling.BILINEAR if resample is None else resample
        settings = self.replace(**overridden({"size": size, "resample": int(resample)}, {}))
        bytes_HWC = np.moveaxis(bytes_CHW, 0, 2)
        picture = PIL.Image.fromarray(np.ascontiguousarray(bytes_HWC[:, :, 0] if len(bytes_CHW) == 1 else bytes_HWC))
        resized = picture.resize(settings._resized_size(picture), resample=PIL.Image.Resampling(resample))
        return _like(image, np.moveaxis(np.atleast_3d(np.asarray(resized)), 2, 0))

    def center_crop(self, image: Any, size: Mapping[str, int] | int) -> Any:
        """Crop the centre of a picture to a height and width, with black margins if it is smaller."""
        crop = self.replace(**overridden({"crop_size": size}, {})).crop_size  # type: ignore[attr-defined]
        cropped_HWC = center_crop(np.moveaxis(_array(image), 0, 2), crop["height"], crop["width"])
        return _like(image, np.moveaxis(cropped_HWC, 2, 0))

    def rescale(self, image: Any, scale: float) -> Any:
        """Multiply a picture by a factor; the result is float32."""
        return _like(image, (_array(image).astype(np.float64) * scale).astype(np.float32))

    def normalize(self, image: Any, mean: Any, std: Any) -> Any:
        """Subtract a mean from a picture and divide by a standard deviation, one value or one for each channel.

        Bytes become float32. Raises ``ConfigError`` for another number of values.
        """
        pixels_CHW = _array(image)
        if not np.issubdtype(pixels_CHW.dtype, np.floating):
            pixels_CHW = pixels_CHW.astype(np.float32)
        mean_C11, std_C11 = (
            _per_channel(name, value, len(pixels_CHW), pixels_CHW.dtype)
            for name, value in (("mean", mean), ("std", std))
        )
        if not std_C11.all():
            raise ConfigError(f"std is {std}; expected no zero, since pixels are divided by it.")
        return _like(image, (pixels_CHW - mean_C11) / std_C11)


def _array(image: Any) -> npt.NDArray[Any]:
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if isinstance(image, PIL.Image.Image) or array.ndim != 3 or array.dtype == object:
        raise ImageError(
            f"a single step got a {type(image).__name__} {list(array.shape)}, expected an array [C, H, W]. preprocess "
            "takes pictures of every form."
        )
    return array


def _like(image: Any, array: npt.NDArray[Any]) -> Any:
    array = array.copy()  # Pillow's isn't writable, and a crop is a part of another
    return torch.from_numpy(array).to(image.device) if isinstance(image, Tensor) else array


def _per_channel(name: str, value: Any, channels: int, dtype: Any) -> npt.NDArray[Any]:
    values = np.asarray(value, dtype=dtype).reshape(-1)
    if len(values) not in (1, channels):
        raise ConfigError(f"{name} has {len(values)} values, expected one for each of the {channels} channels.")
    return values[:, None, None]
