"""The arguments of a processor's call that aren't about text: pictures in every form, and how they become pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

IMAGE_ARGUMENTS = frozenset({
    "do_convert_rgb", "do_resize", "size", "default_to_square", "crop_size", "resample", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "do_pad", "pad_size", "do_center_crop", "data_format",
    "input_data_format", "device", "disable_grouping", "do_exif_transpose", "pixel_limit", "rounding",
})  # fmt: skip
"""The arguments that are handed to the image processor."""
_OTHER_MODALITIES = ("videos", "audio", "videos_kwargs", "audio_kwargs")


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments about text and those about pictures.

    ``text_kwargs``, ``images_kwargs`` and ``common_kwargs`` are taken apart. Raises ``ConfigError`` for an argument
    that is given twice, and for other modalities.
    """
    flat = dict(arguments)
    for name in _OTHER_MODALITIES:
        if flat.pop(name, None):
            raise ConfigError(f"{name} can't be used: this model reads text and pictures. Leave it out.")
    nested = {name: _mapping(name, flat.pop(name, None)) for name in ("common_kwargs", "text_kwargs", "images_kwargs")}
    for name in ("text_kwargs", "images_kwargs"):
        twice = sorted(nested[name].keys() & flat.keys())
        if twice:
            raise ConfigError(f"{twice[0]} is given twice, as an argument and in {name}. Leave one out.")
    about_images = {**nested["common_kwargs"], **flat, **nested["images_kwargs"]}
    about_text = {**nested["common_kwargs"], **flat, **nested["text_kwargs"]}
    images = {name: value for name, value in about_images.items() if name in IMAGE_ARGUMENTS}
    for name in nested["images_kwargs"].keys() - images.keys() - {"return_tensors"}:
        raise ConfigError(f"images_kwargs has {name!r}, which is no argument about pictures.")
    texts = {name: value for name, value in about_text.items() if name not in IMAGE_ARGUMENTS}
    for name in nested["text_kwargs"].keys() & IMAGE_ARGUMENTS:
        raise ConfigError(f"text_kwargs has {name!r}, which is about pictures. Pass it in images_kwargs.")
    return texts, {name: value for name, value in images.items() if value is not None}


def in_order(inputs: tuple[Any, ...], images: Any, text: Any, image_token: str) -> tuple[Any, Any]:
    """Return the pictures and the text of a call, whose positional arguments are in this order.

    Text may come first where that is plain: it is text and the other isn't, or only it has the placeholder. Raises
    ``ConfigError`` for too many of them, or one that is given twice.
    """
    if len(inputs) > 2 or (len(inputs) == 2 and (images is not None or text is not None)):
        raise ConfigError("the processor takes pictures and text: processor(images=..., text=...), each once.")
    if len(inputs) == 2:
        first, second = inputs
        turned = _is_text(first) and (not _is_text(second) or (_has(first, image_token) > _has(second, image_token)))
        return (second, first) if turned else (first, second)
    if len(inputs) == 1:
        if text is not None and images is not None:
            raise ConfigError("the processor takes pictures and text: processor(images=..., text=...), each once.")
        is_text = text is None and (images is not None or _is_text(inputs[0]))
        return (images, inputs[0]) if is_text else (inputs[0], text)
    return images, text


def as_pictures(images: Any) -> list[Any]:
    """Return the pictures as one list: none, one, lists of lists of them, or arrays [B, H, W, C] of several.

    Tensors become arrays.
    """
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [picture for each in images for picture in as_pictures(each)]
    if callable(getattr(images, "detach", None)):
        images = images.detach().cpu().numpy()
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def _has(value: Any, image_token: str) -> bool:
    return any(image_token in each for each in ([value] if isinstance(value, str) else value))


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is a {type(value).__name__}, expected a mapping of arguments.")
    return dict(value)
