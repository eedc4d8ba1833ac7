"""Pictures to pixels: resize, crop, scale.

Two implementations exist and round differently; the default is bit-identical to
``ChameleonImageProcessorPil`` of `transformers` 5.23 on the pictures that it accepts.
Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from msgspec import Meta

from ._config import Config
from ._files import read_json, write_json
from .errors import ConfigError, ImageError, MissingFileError
from .pictures import PIXEL_LIMIT, Picture, check_pixels, list_pictures, open_picture
from .transforms import Blend, Bytes, Rounding, byte_values, center_crop, target_size, to_rgb

Side = Annotated[int, Meta(ge=1)]
P = TypeVar("P", bound="ChameleonImageProcessor")

SIZES = (
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"height", "width"},
    {"max_height", "max_width"},
)
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

# What `transformers` writes beside the fields, through its versions 4 and 5.
# fmt: off
_WRITTEN_BY_TRANSFORMERS = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "default_to_square",
    "data_format", "input_data_format", "device", "disable_grouping", "return_tensors", "image_seq_length",
    "_valid_processor_keys",
})
# fmt: on


class ChameleonImageProcessor(Config, frozen=True, kw_only=True):
    """Turns pictures into what the VQ-VAE reads; every field can be overridden for one call of ``preprocess``.

    ``do_convert_rgb``: greyscale, palettes, CMYK and the rest to RGB, transparency onto white.
    ``do_resize`` to ``size`` with the PIL filter ``resample`` (1 is Lanczos). ``size`` is ``{"shortest_edge": n}``
    (an integer means that), optionally bounded by ``longest_edge``; or exact ``{"height", "width"}``; or as large as
    fits into ``{"max_height", "max_width"}``.
    ``do_center_crop`` to ``crop_size`` (an integer means a square); what is smaller gets black margins.
    ``do_rescale`` multiplies by ``rescale_factor``, ``do_normalize`` subtracts ``image_mean`` and divides by
    ``image_std``, one value or one per channel.

    Beyond the reference, and written to a file only where they differ from the default:
    ``do_exif_transpose`` turns photographs upright: always, never, or (None) those read from files, as the reference
    does. ``pixel_limit`` bounds what is decoded or resized.
    ``rounding``: "transformers" cuts the fraction off the longer side, and scales in float32; "meta" rounds the side,
    blends transparency as Meta's code does, and scales in float64 (rounded to float32 once).
    """

    do_resize: bool = True
    size: dict[str, Side] = msgspec.field(default_factory=lambda: {"shortest_edge": 512})
    resample: Annotated[int, Meta(ge=0, le=5)] = 1
    do_center_crop: bool = True
    crop_size: dict[str, Side] = msgspec.field(default_factory=lambda: {"height": 512, "width": 512})
    do_rescale: bool = True
    rescale_factor: float = 0.0078
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] = (1.0, 1.0, 1.0)
    image_std: float | tuple[float, ...] = (1.0, 1.0, 1.0)
    do_convert_rgb: bool = True

    do_exif_transpose: bool | None = None
    pixel_limit: Side = PIXEL_LIMIT
    rounding: Rounding = "transformers"

    known_extras = _WRITTEN_BY_TRANSFORMERS

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            msgspec.structs.force_setattr(self, "size", {"shortest_edge": self.size})
        if isinstance(self.crop_size, int):
            msgspec.structs.force_setattr(self, "crop_size", {"height": self.crop_size, "width": self.crop_size})
        super().__post_init__()

    def check(self) -> None:
        """Sizes name what they measure; nothing divides by zero."""
        if set(self.size) not in SIZES:
            allowed = ", ".join("{" + ", ".join(sorted(keys)) + "}" for keys in SIZES)
            raise ConfigError(f"size has the keys {sorted(self.size)}; expected one of {allowed}.")
        if set(self.crop_size) != {"height", "width"}:
            raise ConfigError(f"crop_size has the keys {sorted(self.crop_size)}; expected height and width.")
        if not np.all(self.image_std):
            raise ConfigError(f"image_std {self.image_std} divides by zero.")

    @classmethod
    def meta(cls: type[P], resolution: int = 512) -> P:
        """Meta's own preprocessing: transparency on white, sides rounded, x / 255 · 2 − 1."""
        return cls(
            size={"shortest_edge": resolution},
            crop_size={"height": resolution, "width": resolution},
            rescale_factor=1 / 255,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
            rounding="meta",
        )

    def at_resolution(self: P, resolution: int) -> P:
        """The same for square pictures of another size."""
        return self.replace(size={"shortest_edge": resolution}, crop_size={"height": resolution, "width": resolution})

    def preprocess(
        self,
        images: Picture | Iterable[Picture | Iterable[Picture]],
        return_tensors: Literal["pt", "np"] | None = "pt",
        *,
        do_resize: bool | None = None,
        size: dict[str, int] | int | None = None,
        resample: int | None = None,
        do_center_crop: bool | None = None,
        crop_size: dict[str, int] | int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Iterable[float] | None = None,
        image_std: float | Iterable[float] | None = None,
        do_convert_rgb: bool | None = None,
        do_exif_transpose: bool | None = None,
        pixel_limit: int | None = None,
        rounding: Rounding | None = None,
    ) -> dict[str, Any]:
        """Pictures to ``{"pixel_values": pixels}``; an argument that isn't None overrides the field of its name.

        The pixels are float32 [B, C, H, W] as a torch tensor ("pt") or an array ("np"), or a list of arrays [C, H, W]
        (None). They stay uint8 where neither rescaling nor normalisation is wanted.
        Raises ``ImageError`` (which picture, and what is wrong), ``MissingFileError``, ``ConfigError``.
        """
        overrides = {
            "do_resize": do_resize,
            "size": size,
            "resample": resample,
            "do_center_crop": do_center_crop,
            "crop_size": crop_size,
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
            "do_convert_rgb": do_convert_rgb,
            "do_exif_transpose": do_exif_transpose,
            "pixel_limit": pixel_limit,
            "rounding": rounding,
        }
        changes = {name: value for name, value in overrides.items() if value is not None}
        settings = self.replace(**changes) if changes else self
        if return_tensors not in ("pt", "np", None):
            raise ConfigError(f"return_tensors is {return_tensors!r}; expected 'pt', 'np' or None.")
        pixels = [settings._pixels(picture) for picture in list_pictures(images)]
        if return_tensors is None:
            return {"pixel_values": pixels}
        shapes = sorted({each.shape for each in pixels})
        if len(shapes) != 1:
            raise ImageError(
                f"can't put pictures of the shapes {[list(shape) for shape in shapes]} into one batch. Keep "
                "do_center_crop and do_convert_rgb on, or ask for return_tensors=None."
                if shapes
                else "expected at least one picture, got an empty list."
            )
        batch = np.stack(pixels)
        return {"pixel_values": torch.from_numpy(batch) if return_tensors == "pt" else batch}

    __call__ = preprocess

    @classmethod
    def from_pretrained(cls: type[P], folder: str | os.PathLike[str]) -> P:
        """Read ``preprocessor_config.json``, or ``image_processor`` of ``processor_config.json``.

        Raises ``MissingFileError`` where a folder has neither.
        """
        root = Path(folder)
        if (root / PREPROCESSOR).is_file():
            return cls.from_dict(read_json(root / PREPROCESSOR), source=str(root / PREPROCESSOR))
        if (root / PROCESSOR).is_file():
            nested = read_json(root / PROCESSOR).get("image_processor")
            if isinstance(nested, dict):
                return cls.from_dict(nested, source=f"{root / PROCESSOR} (image_processor)")
        raise MissingFileError(f"{root} has no {PREPROCESSOR}, and no {PROCESSOR} with an image_processor.")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``preprocessor_config.json``, readable by `transformers`."""
        write_json(Path(folder) / PREPROCESSOR, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The mapping that ``preprocessor_config.json`` holds."""
        data = super().to_dict()
        for name, default in (("do_exif_transpose", None), ("pixel_limit", PIXEL_LIMIT), ("rounding", "transformers")):
            if data[name] == default:
                del data[name]
        data["image_processor_type"] = "ChameleonImageProcessor"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    def _pixels(self, picture: Picture) -> npt.NDArray[Any]:
        """One picture to [C, H, W]."""
        image = open_picture(picture, pixel_limit=self.pixel_limit, exif=self.do_exif_transpose)
        if self.do_convert_rgb:
            image = to_rgb(image, blend=self._blend(picture))
        elif image.mode not in ("L", "P", "RGB", "RGBA"):
            raise ImageError(f"a picture of mode {image.mode} needs do_convert_rgb.")
        if self.do_resize:
            image = self._resized(image)
        bytes_HWC = np.atleast_3d(np.asarray(image))
        if self.do_center_crop:
            bytes_HWC = center_crop(bytes_HWC, self.crop_size["height"], self.crop_size["width"])
        return self._scaled(bytes_HWC)

    def _blend(self, picture: Picture) -> Blend:
        if self.rounding == "meta":
            return "truncate"
        return "nearest" if isinstance(picture, (np.ndarray, torch.Tensor)) else "pillow"

    def _resized(self, image: PIL.Image.Image) -> PIL.Image.Image:
        height, width = target_size(image.height, image.width, self.size, rounding=self.rounding)
        if (height, width) == (image.height, image.width):
            return image
        name = f"a picture of {image.width}×{image.height}, resized to {self.size},"
        check_pixels(width, height, self.pixel_limit, name)
        return image.resize((width, height), resample=PIL.Image.Resampling(self.resample))

    def _scaled(self, bytes_HWC: Bytes) -> npt.NDArray[Any]:
        """[H, W, C] of bytes to [C, H, W] of what they stand for."""
        channels = bytes_HWC.shape[2]
        normalization = None
        if self.do_normalize:
            normalization = (
                _per_channel("image_mean", self.image_mean, channels),
                _per_channel("image_std", self.image_std, channels),
            )
        values_CN = byte_values(
            channels,
            factor=self.rescale_factor if self.do_rescale else None,
            normalization=normalization,
            rounding=self.rounding,
        )
        scaled_CHW = np.empty((channels, *bytes_HWC.shape[:2]), dtype=values_CN.dtype)
        for channel in range(channels):
            np.take(values_CN[channel], bytes_HWC[:, :, channel], out=scaled_CHW[channel])
        return scaled_CHW


def _per_channel(name: str, value: float | tuple[float, ...], channels: int) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,) * channels
    if len(values) != channels:
        raise ImageError(f"{name} has {len(values)} values, the picture has {channels} channels.")
    return values
