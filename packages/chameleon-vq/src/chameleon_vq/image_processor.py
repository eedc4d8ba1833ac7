"""The image processor: pictures to pixels, by resizing, cropping and scaling.

Two published implementations round differently; the default is bit-identical to ``ChameleonImageProcessorPil`` of
``transformers`` 5.23 on the pictures that it accepts. Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from msgspec import Meta

from ._commits import committing
from ._config import Config
from ._hub import locate, push_saved
from ._model_inputs import ModelInputs
from .compat.image_arguments import as_batch, channels_last, overridden, pixel_form
from .compat.image_settings import ImageSettings
from .compat.image_steps import ImageSteps
from .compat.loading import save
from .errors import ConfigError, ImageError
from .file_access import writing
from .picture_files import check_pixels
from .pictures import MAX_PIXELS, Picture, list_pictures, open_picture
from .settings_files import required_settings_of, write_settings
from .transforms import Blend, Bytes, Rounding, byte_values, center_crop, target_size, to_rgb

Side = Annotated[int, Meta(ge=1)]
P = TypeVar("P", bound="ChameleonImageProcessor")

SIZES = ({"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"height", "width"}, {"max_height", "max_width"})
MAX_CROP_PIXELS = 2**24
"""The largest number of pixels of a crop, 64 times the published 512×512: it is made whatever a picture has."""
MAX_RESIZED_SIDE = 2**20
"""The longest side in pixels that a picture is resized to: resizing takes 60 bytes for each beside the pixels."""
_LARGEST = 2**40  # pixels; far above any picture, and below what arithmetic in floating point rounds

# What `transformers` writes beyond the fields, in its versions 4 and 5.
# fmt: off
_WRITTEN_BY_TRANSFORMERS = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "default_to_square",
    "data_format", "input_data_format", "device", "disable_grouping", "return_tensors", "image_seq_length",
    "_valid_processor_keys",
})
# fmt: on


class ChameleonImageProcessor(ImageSettings, ImageSteps, Config, frozen=False, kw_only=True):  # type: ignore[misc]  # msgspec allows it
    """Converts pictures to the pixels that the VQ-VAE encodes.

    The steps are those of the fields, from top to bottom. ``preprocess`` overrides any field for one call, and a field
    may be assigned, with the checks that making one has. The last three fields are extensions: ``transformers`` doesn't
    have them, and they are written to a file only if they differ from their defaults.
    """

    do_resize: bool = True
    """Whether to resize the picture to ``size``; by default True."""
    size: dict[str, Side] = msgspec.field(default_factory=lambda: {"shortest_edge": 512})
    """Size to resize to, in pixels, each ≥ 1; by default ``{"shortest_edge": 512}``, which the integer 512 also means.

    ``{"shortest_edge": n}`` keeps the aspect ratio, and an additional ``"longest_edge"`` bounds the other side;
    ``{"height": h, "width": w}`` is exact; ``{"max_height": h, "max_width": w}`` is as large as fits.
    """
    resample: Annotated[int, Meta(ge=0, le=5)] = 1
    """Filter for resizing, a value of ``PIL.Image.Resampling``; 0…5, by default 1 (Lanczos)."""
    do_center_crop: bool = True
    """Whether to crop the centre of the picture to ``crop_size``; by default True."""
    crop_size: dict[str, Side] = msgspec.field(default_factory=lambda: {"height": 512, "width": 512})
    """Height and width to crop to, in pixels, each ≥ 1; by default 512 both, which the integer 512 also means.

    A smaller picture gets black margins.
    """
    do_rescale: bool = True
    """Whether to multiply the bytes by ``rescale_factor``; by default True."""
    rescale_factor: float = 0.0078
    """Factor from bytes (0…255) to values before normalisation; by default 0.0078, which makes white 1.989."""
    do_normalize: bool = True
    """Whether to subtract ``image_mean`` and divide by ``image_std``; by default True."""
    image_mean: float | tuple[float, ...] = (1.0, 1.0, 1.0)
    """Mean to subtract, one value or one per channel; by default 1 for each."""
    image_std: float | tuple[float, ...] = (1.0, 1.0, 1.0)
    """Standard deviation to divide by, one value or one per channel, not 0; by default 1 for each."""
    do_convert_rgb: bool = True
    """Whether to convert greyscale, palettes, CMYK and the like to RGB; by default True.

    Transparency is blended onto white.
    """

    do_exif_transpose: bool | None = None
    """Whether to rotate pictures upright by their EXIF orientation.

    None (the default) does it for files only, as ``transformers`` does; True or False hold for PIL images too.
    """
    pixel_limit: Side = MAX_PIXELS
    """Largest number of pixels that a picture may have when opened or resized; ≥ 1, by default 89,478,485."""
    rounding: Rounding = "transformers"
    """Which implementation to match: "transformers" (the default) or "meta".

    "transformers" truncates the longer side and scales in float32. "meta" rounds the side, blends transparency as
    Meta's code does, and scales in float64, rounded to float32 once.
    """

    known_extras = _WRITTEN_BY_TRANSFORMERS

    @property
    def model_input_names(self) -> list[str]:
        """The names of what ``preprocess`` returns."""
        return ["pixel_values"]

    def __setattr__(self, name: str, value: Any) -> None:
        # replace() names an unknown field's closest, and checks the value.
        changed = self.replace(**overridden({name: value}, {}))
        msgspec.structs.force_setattr(self, name, getattr(changed, name))

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            msgspec.structs.force_setattr(self, "size", {"shortest_edge": self.size})
        if isinstance(self.crop_size, int):
            msgspec.structs.force_setattr(self, "crop_size", {"height": self.crop_size, "width": self.crop_size})
        super().__post_init__()

    def check(self) -> None:
        """Raise ``ConfigError`` if a size has other keys than expected or is too large, or a constant isn't finite."""
        if set(self.size) not in SIZES:
            allowed = ", ".join("{" + ", ".join(sorted(keys)) + "}" for keys in SIZES)
            known = sorted(set().union(*SIZES))
            hint = _closest(self.size, known)
            raise ConfigError(f"size has the keys {sorted(self.size)}; expected one of {allowed}.{hint}")
        if set(self.crop_size) != {"height", "width"}:
            hint = _closest(self.crop_size, ["height", "width"])
            raise ConfigError(f"crop_size has the keys {sorted(self.crop_size)}; expected height and width.{hint}")
        for name in ("rescale_factor", "image_mean", "image_std"):
            if not np.isfinite(getattr(self, name)).all():
                raise ConfigError(f"{name} is {getattr(self, name)}; expected finite numbers.")
        if self.crop_size["height"] * self.crop_size["width"] > MAX_CROP_PIXELS:
            raise ConfigError(f"crop_size is {self.crop_size}; expected at most {MAX_CROP_PIXELS:,} pixels.")
        if max(*self.size.values(), self.resample, self.pixel_limit) > _LARGEST:
            raise ConfigError(f"size is {self.size} and pixel_limit {self.pixel_limit}; expected at most {_LARGEST:,}.")
        if not np.all(self.image_std):
            raise ConfigError(f"image_std is {self.image_std}; expected no zero, since pixels are divided by it.")

    @classmethod
    def meta(cls: type[P], resolution: int = 512) -> P:
        """Return Meta's own preprocessing: transparency on white, sides rounded, x / 255 · 2 − 1."""
        return cls(
            size={"shortest_edge": resolution},
            crop_size={"height": resolution, "width": resolution},
            rescale_factor=1 / 255,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
            rounding="meta",
        )

    def at_resolution(self: P, resolution: int) -> P:
        """Return a copy that resizes and crops to square pictures of ``resolution`` pixels a side."""
        return self.replace(size={"shortest_edge": resolution}, crop_size={"height": resolution, "width": resolution})

    def covering(self: P, size: tuple[int, int], *, of: tuple[int, int]) -> P:
        """Return a copy that resizes a picture until it covers ``size``, and crops it to that.

        ``of`` is the picture's own size. Both are heights and widths in pixels, and the ratio is kept.
        """
        scale = max(size[0] / of[0], size[1] / of[1])
        resized = {
            name: max(side, round(own * scale)) for name, side, own in zip(("height", "width"), size, of, strict=True)
        }
        crop = {"height": size[0], "width": size[1]}
        return self.replace(do_resize=True, size=resized, do_center_crop=True, crop_size=crop)

    def upright(self, picture: Picture, *, exif: bool | None = None) -> PIL.Image.Image:
        """Return a picture as it is, decoded; ``exif`` overrides ``do_exif_transpose``.

        Raises ``ImageError``, ``MissingFileError``.
        """
        exif = self.do_exif_transpose if exif is None else exif
        return open_picture(picture, pixel_limit=self.pixel_limit, exif=exif)

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
        **arguments: Any,
    ) -> ModelInputs:
        """Convert pictures to ``{"pixel_values": pixels}``; an argument that isn't None overrides its field.

        The pixels are float32 [B, C, H, W] as a torch tensor (``return_tensors="pt"``) or an array ("np"), or a list
        of arrays [C, H, W] (None). They are uint8 if neither rescaled nor normalised. ``arguments`` are the others of
        ``transformers``: ``data_format``, ``input_data_format``, ``device`` and so on. Raises ``ImageError`` (which
        picture, and what is wrong), ``MissingFileError``, and ``ConfigError`` for an unknown or impossible argument.
        """
        form, rest = pixel_form(arguments)
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
        changes = overridden(overrides, rest)
        settings = self.replace(**changes) if changes else self
        if return_tensors not in ("pt", "np", None):
            raise ConfigError(f"return_tensors is {return_tensors!r}; expected 'pt', 'np' or None.")
        pictures = [channels_last(each, form.input_channels) for each in list_pictures(images)]
        pixels = [settings._pixels(picture) for picture in pictures]
        return ModelInputs({"pixel_values": as_batch(pixels, return_tensors, form)})

    __call__ = preprocess

    @classmethod
    def from_pretrained(cls: type[P], folder: str | os.PathLike[str] | None = None, **arguments: Any) -> P:
        """Load from ``preprocessor_config.json``, or ``image_processor`` of ``processor_config.json``.

        They are those of a folder, a name or a Hub id. ``arguments`` are fields that replace the stored ones, and where
        in the Hub (``revision``, …). Raises ``MissingFileError``, ``FileFormatError``, ``ConfigError``.
        """
        folder = locate(folder, arguments, what="the image processor")
        if arguments.pop("use_fast", None):
            raise ConfigError("use_fast can't be True: there is one image processor, which computes as the slow one.")
        data, source = required_settings_of(folder)
        return cls.from_dict(data, source=source).replace(**overridden(cls._understood(arguments), {}))

    @property
    def largest_pixel(self) -> float:
        """The largest absolute value of a pixel; 1 with the default constants."""
        channels = max(len(value) if isinstance(value, tuple) else 1 for value in (self.image_mean, self.image_std))
        return float(np.abs(self._values(channels)).max())

    def save_pretrained(self, folder: str | os.PathLike[str] | None = None, **arguments: Any) -> None:
        """Save to a folder's ``preprocessor_config.json``, readable by ``transformers``.

        An ``image_processor`` in ``processor_config.json``, which readers prefer, is replaced. ``push_to_hub=True``
        uploads it, too.
        """
        save(self, self._write, folder, arguments)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the settings to a repository of the Hub, and return the commit's address."""
        return push_saved(self._write, repo_id, options)

    def _write(self, folder: str | os.PathLike[str]) -> None:
        with writing(folder), committing(folder) as save_folder:
            write_settings(self, save_folder, beside=folder)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping for ``preprocessor_config.json``."""
        data = super().to_dict()
        for name, default in (("do_exif_transpose", None), ("pixel_limit", MAX_PIXELS), ("rounding", "transformers")):
            if data[name] == default:
                del data[name]
        data["image_processor_type"] = "ChameleonImageProcessor"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    def _pixels(self, picture: Picture) -> npt.NDArray[Any]:
        """Convert one picture to pixels [C, H, W]."""
        image = open_picture(picture, pixel_limit=self.pixel_limit, exif=self.do_exif_transpose)
        # Before a conversion takes memory for a picture that is then refused.
        size = self._resized_size(image) if self.do_resize else image.size
        if self.do_convert_rgb:
            image = to_rgb(image, blend=self._blend(picture))
        elif image.mode not in ("L", "P", "RGB", "RGBA"):
            raise ImageError(f"got a picture of mode {image.mode}, expected L, P, RGB or RGBA; turn do_convert_rgb on.")
        if size != image.size:
            image = image.resize(size, resample=PIL.Image.Resampling(self.resample))
        bytes_HWC = np.atleast_3d(np.asarray(image))
        if self.do_center_crop:
            bytes_HWC = center_crop(bytes_HWC, self.crop_size["height"], self.crop_size["width"])
        return self._scaled(bytes_HWC)

    def _blend(self, picture: Picture) -> Blend:
        if self.rounding == "meta":
            return "truncate"
        return "nearest" if isinstance(picture, (np.ndarray, torch.Tensor)) else "pillow"

    def _resized_size(self, image: PIL.Image.Image) -> tuple[int, int]:
        """Return the width and height that a picture is resized to. Raises ``ImageError`` where that is too large."""
        height, width = target_size(image.height, image.width, self.size, rounding=self.rounding)
        if (width, height) != image.size:
            name = f"a picture of {image.width}×{image.height}, resized to {self.size},"
            check_pixels(width, height, self.pixel_limit, name)
            if (side := max(width, height)) > MAX_RESIZED_SIDE:
                raise ImageError(
                    f"{name} has a side of {side:,} pixels, more than {MAX_RESIZED_SIDE:,}. Crop it first."
                )
        return width, height

    def _scaled(self, bytes_HWC: Bytes) -> npt.NDArray[Any]:
        """Scale bytes [H, W, C] to pixels [C, H, W]."""
        channels = bytes_HWC.shape[2]
        values_C256 = self._values(channels)
        scaled_CHW = np.empty((channels, *bytes_HWC.shape[:2]), dtype=values_C256.dtype)
        for channel in range(channels):
            # Every byte is in the table, and with another mode than "raise" the result isn't buffered.
            np.take(values_C256[channel], bytes_HWC[:, :, channel], out=scaled_CHW[channel], mode="wrap")
        return scaled_CHW

    def _values(self, channels: int) -> npt.NDArray[Any]:
        """Return the pixel value of each byte, [C, 256]. Raises ``ConfigError`` if one overflows."""
        normalization = None
        if self.do_normalize:
            normalization = (
                _per_channel("image_mean", self.image_mean, channels),
                _per_channel("image_std", self.image_std, channels),
            )
        values_C256 = byte_values(
            channels,
            factor=self.rescale_factor if self.do_rescale else None,
            normalization=normalization,
            rounding=self.rounding,
        )
        if not np.isfinite(values_C256).all():
            raise ConfigError(
                f"rescale_factor {self.rescale_factor}, image_mean {self.image_mean} and image_std {self.image_std} "
                "make pixels that overflow float32; expected constants that map 0…255 to about −1…1."
            )
        return values_C256


def _per_channel(name: str, value: float | tuple[float, ...], channels: int) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,) * channels
    if len(values) != channels:
        raise ImageError(
            f"{name} has {len(values)} values, expected one for each of the picture's {channels} channels."
        )
    return values


def _closest(given: Iterable[str], known: list[str]) -> str:
    """Return a hint for the keys that aren't known and are like one that is."""
    wrong = [name for name in given if name not in known]
    close = [match for name in wrong for match in difflib.get_close_matches(name, known, n=1)]
    return f" Did you mean {' and '.join(map(repr, close))}?" if close else ""
