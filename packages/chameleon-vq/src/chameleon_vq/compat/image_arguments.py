"""Per-call arguments of ``transformers``' image processors that aren't fields of ours.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._model_inputs import ModelInputs
from ..errors import ConfigError, ImageError

_FIRST, _LAST = "channels_first", "channels_last"


class PixelForm(msgspec.Struct, frozen=True):
    """How pixels are handed in and out."""

    channels_last: bool = False
    """Whether the pixels that are returned are [B, H, W, C]; by default False, [B, C, H, W]."""
    input_channels: str | None = None
    """"channels_first" or "channels_last" of arrays that are given; None, the default, finds out."""
    device: Any = None
    """The device that tensors are returned on; None, the default, is the CPU."""


def pixel_form(arguments: Mapping[str, Any]) -> tuple[PixelForm, dict[str, Any]]:
    """Return what the arguments say of the pixels' form, and those that aren't known here.

    ``data_format``, ``input_data_format`` and ``device`` are done. ``do_pad``, ``pad_size`` and ``disable_grouping``
    may have the values that mean what happens anyway. Raises ``ConfigError`` for others.
    """
    rest = dict(arguments)
    # Pictures of one size need no padding, and those of several are an error.
    if rest.pop("do_pad", None) not in (None, True, False):
        raise ConfigError("do_pad must be True or False; pictures of one size, which the crop makes, need no padding.")
    if rest.pop("pad_size", None) is not None:
        raise ConfigError("pad_size isn't used: pictures are cropped to one size. Pass crop_size.")
    grouping = rest.pop("disable_grouping", None)
    if grouping not in (None, True, False):
        raise ConfigError(f"disable_grouping is {grouping!r:.80}; expected True, False or None, which give one result.")
    returned = _layout("data_format", rest.pop("data_format", None))
    given = _layout("input_data_format", rest.pop("input_data_format", None))
    return PixelForm(returned == _LAST, given, rest.pop("device", None)), rest


def overridden(overrides: Mapping[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are changed for one call: ``size`` may be a height and width, or a side of a square."""
    changes = {name: value for name, value in overrides.items() if value is not None}
    square = rest.pop("default_to_square", None)
    for name in ("size", "crop_size"):
        value = changes.get(name)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            changes[name] = {"height": value[0], "width": value[1]}
        elif isinstance(value, Mapping) and not isinstance(value, dict):
            # SizeDict of transformers is a mapping whose missing sides are None.
            changes[name] = {side: pixels for side, pixels in value.items() if pixels is not None}
    if square and isinstance(changes.get("size"), int):
        changes["size"] = {"height": changes["size"], "width": changes["size"]}
    for name in ("image_mean", "image_std"):
        if isinstance(changes.get(name), Sequence):
            changes[name] = tuple(changes[name])
    # Unknown names are passed on, because the error of replace() names the closest field.
    return changes | rest


def channels_last(picture: Any, layout: str | None) -> Any:
    """Return an array [H, W, C] of one whose channels are where ``layout`` says; other pictures as they are."""
    if layout != _FIRST or not isinstance(picture, (np.ndarray, Tensor)) or picture.ndim != 3:
        return picture
    return picture.permute(1, 2, 0) if isinstance(picture, Tensor) else np.moveaxis(picture, 0, 2)


def as_batch(pixels: list[npt.NDArray[Any]], return_tensors: str | None, form: PixelForm) -> Any:
    """Return pixels [C, H, W] of several pictures as one batch, or as a list where ``return_tensors`` is None.

    Raises ``ImageError`` where they have several shapes or there are none, ``ConfigError`` for a device that isn't
    available.
    """
    if form.channels_last:
        pixels = [np.ascontiguousarray(np.moveaxis(each, 0, 2)) for each in pixels]
    if return_tensors is None:
        return pixels
    shapes = sorted({each.shape for each in pixels})
    if len(shapes) != 1:
        raise ImageError(
            f"pictures of the shapes {[list(shape) for shape in shapes]} don't fit into one batch. Turn "
            "do_center_crop and do_convert_rgb on, or pass return_tensors=None."
            if shapes
            else "expected at least one picture, got an empty list."
        )
    batch = np.stack(pixels)
    if return_tensors == "np":
        return batch
    inputs = ModelInputs({"pixel_values": torch.from_numpy(batch)})
    return (inputs if form.device is None else inputs.to(form.device))["pixel_values"]


def _layout(name: str, value: Any) -> str | None:
    layout = getattr(value, "value", value)  # transformers has an enumeration of them
    if layout in (_FIRST, _LAST, None):
        return None if layout is None else str(layout)
    raise ConfigError(f"{name} is {value!r:.80}; expected {_FIRST!r} or {_LAST!r}.")
