"""The image tokenizer: pictures to codes and back.

Shapes: B pictures, C channels, H W pixels, h w latent grid, Q codes per position, N = h·w·Q codes per picture,
n ≤ N first codes of a picture.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from . import checkpoint
from ._commits import committing, read_whole
from .code_arrays import Codes, checked_codes
from .compat.loading import VQRequest, save
from .errors import ChameleonVQError, CodesError, ImageError, MissingFileError, unread_pictures
from .file_access import writing
from .image_processor import ChameleonImageProcessor
from .model import ChameleonVQVAE, VQEncoding
from .picture_files import check_pixels
from .pictures import (
    Picture,
    batch_of,
    batches,
    bytes_to_image,
    check_pixel_range,
    check_pixel_tensor,
    list_pictures,
    pictures_in,
    pixels_to_images,
)
from .read_ahead import read_ahead
from .registry import find_pretrained
from .settings_files import settings_of, write_settings
from .transforms import check_sides

# The fingerprint leaves these out: an encoder's codes fit every decoder that was trained with its codebook, and
# published checkpoints have no decoder.
_NOT_ENCODING = ("decoder.", "post_quant_conv.")

_LARGEST_SIDE = 2**16


class ImageTokenizer:
    """Encodes pictures to codes and decodes codes to pictures: a VQ-VAE with its image processor.

    ``image_processor`` defaults to that of ``transformers``, at the model's resolution. The model is switched to
    inference. Codes are int64 [B, N] on the CPU: the rows of the latent grid from top to bottom, each from left to
    right; the codes of one position are adjacent. Raises ``ImageError`` if the model's stride doesn't divide the image
    processor's resolution.
    """

    def __init__(self, model: ChameleonVQVAE, image_processor: ChameleonImageProcessor | None = None) -> None:
        if image_processor is None:
            image_processor = ChameleonImageProcessor().at_resolution(model.config.resolution)
        self.model = model.eval()
        self.image_processor = image_processor
        check_sides(*self._default_resolution(), stride=self.model.config.stride)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = torch.float32,
        check_finite: bool = True,
        **arguments: Any,
    ) -> ImageTokenizer:
        """Load from the folder of a Chameleon model or of an image tokenizer, by a registered name, or by a Hub id.

        Of a model only the tensors ``model.vqmodel.*`` are read. In bfloat16 some codes differ; see ``compare_codes``.
        ``check_finite=False`` leaves out the check of the weights for NaN and infinity. ``arguments`` are those of
        ``transformers`` (``revision``, ``subfolder``, ``token``, ``device_map``, …), which ``compat.loading``
        translates or refuses. Raises ``UnknownPluginError``, ``MissingFileError``, ``FileFormatError``,
        ``ConfigError``, ``WeightsError``.
        """
        request = VQRequest.of(arguments, dtype=dtype, device=device, tells_more=False)
        folder = find_pretrained(name_or_folder, request.hub)
        read = partial(ChameleonVQVAE._read, folder, request, check_finite)
        model, settings = read_whole(folder, lambda: (read(), settings_of(folder)))
        # A processor_config.json may be that of a tokenizer alone; as in `transformers`, the defaults hold then.
        return cls(model, settings and ChameleonImageProcessor.from_dict(settings[0], source=settings[1]))

    def save_pretrained(self, folder: str | os.PathLike[str] | None = None, **arguments: Any) -> None:
        """Save, in one commit, to a folder that ``from_pretrained`` and ``ChameleonVQVAE`` of ``transformers`` read.

        Warns (``InterchangeWarning``) where ``transformers`` would compute other codes, as with another
        ``norm_num_groups`` than 32. ``push_to_hub=True`` uploads the folder, too. Raises as its model's does.
        """
        save(self, partial(self._write, check_finite=arguments.pop("check_finite", True)), folder, arguments)

    def _write(self, folder: str | os.PathLike[str], *, check_finite: bool = True) -> None:
        with writing(folder), committing(folder) as save_folder:
            self.model._write(save_folder, check_finite=check_finite)
            write_settings(self.image_processor, save_folder, beside=folder)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device and return the tokenizer; their dtype stays, because codes depend on it.

        Raises ``ConfigError`` if the device isn't available.
        """
        checkpoint.check_device(device, torch.float32)
        self.model.to(device)
        return self

    def __repr__(self) -> str:
        parameter = next(self.model.parameters())
        height, width = self._default_resolution()
        several = () if self.codes_per_position == 1 else (self.codes_per_position,)
        grid = "×".join(map(str, (*self.latent_size, *several)))
        decoder = "" if self.model.decoder is not None else ", no decoder"
        return (
            f"{type(self).__name__}({height}×{width} pixels, {grid} codes of {self.num_codes}, quantizer "
            f"{self.model.config.quantizer!r}{decoder}, {str(parameter.dtype).removeprefix('torch.')} on "
            f"{parameter.device})"
        )

    @property
    def num_codes(self) -> int:
        """Number of codes, which are 0…num_codes − 1."""
        return self.model.quantize.num_codes

    @property
    def codes_per_position(self) -> int:
        """Number of codes per position of the latent grid; 1 for a codebook."""
        return self.model.quantize.codes_per_position

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent grid at the default resolution."""
        height, width = self._default_resolution()
        return height // self.model.config.stride, width // self.model.config.stride

    @property
    def tokens_per_image(self) -> int:
        """Number of codes of a picture at the default resolution."""
        height, width = self.latent_size
        return height * width * self.codes_per_position

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what determines a picture's codes: the encoder and the codebook.

        The weights are rounded to bfloat16 first, so that a tokenizer loaded in bfloat16 has the same one. It is
        computed on each access, since weights can change; that takes about 0.1 s at full size.
        """
        config = self.model.config
        digest = hashlib.sha256(json.dumps([config.quantizer, config.quantizer_options], sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith(_NOT_ENCODING):
                digest.update(f"{name}{list(tensor.shape)}".encode())
                digest.update(tensor.to("cpu", torch.bfloat16).reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def encode(
        self,
        images: Picture | Iterable[Picture],
        *,
        batch_size: int | None = None,
        resolution: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Encode pictures (files, PIL images, uint8 arrays) to codes: int64 [B, N].

        ``batch_size`` pictures are encoded together; by default as many as have a million pixels, but at most 16. It
        changes the codes of near-ties at most. ``resolution`` resizes to square pictures of another size, in
        pixels, a multiple of the stride; a picture then has ``(resolution / stride)²`` positions. ``size`` is the
        height and width of pictures that aren't square. Raises ``ImageError``, ``MissingFileError``.
        """
        height, width = self._sides(resolution, size)
        codes = [
            self.encode_pixels(self.pixels(part, resolution=resolution, size=size))
            for part in batches(list_pictures(images), batch_size, pixels=height * width)
        ]
        if not codes:
            return torch.empty(0, self.tokens_per_image, dtype=torch.int64)
        return torch.cat(codes)

    def pixels(
        self,
        images: Picture | Iterable[Picture],
        *,
        resolution: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return the pixels that ``encode`` gives to the model, upright: float32 [B, C, H, W].

        The arguments and errors are those of ``encode``.
        """
        processor = self.image_processor
        self._sides(resolution, size)
        if size is not None:
            return torch.cat([self._covering(picture, size) for picture in list_pictures(images)]).float()
        if resolution is not None:
            processor = processor.at_resolution(resolution)
        pixels_BCHW: Tensor = processor.preprocess(images, do_exif_transpose=self._upright)["pixel_values"]
        return pixels_BCHW.float()

    def picture_size(self, image: Picture) -> tuple[int, int]:
        """Return the height and width of a picture as it is, upright, in pixels.

        Raises ``ImageError``, ``MissingFileError``.
        """
        upright = self.image_processor.upright(image, exif=self._upright)
        return upright.height, upright.width

    def crop(self, images: Picture | Iterable[Picture]) -> list[PIL.Image.Image]:
        """Return pictures as the model sees them: upright, in RGB, resized and cropped. Their codes are the same."""
        bytes_CHW = self.image_processor.preprocess(
            images, None, do_rescale=False, do_normalize=False, do_exif_transpose=self._upright
        )["pixel_values"]
        return [bytes_to_image(np.moveaxis(each, 0, 2)) for each in bytes_CHW]

    def encode_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Path, ChameleonVQError], None] | None = None,
    ) -> Iterator[tuple[Path, Tensor]]:
        """Encode the picture files of a folder and its subfolders, and yield each path with its codes: int64 [N].

        The files are sorted, and only the pixels of three batches are in memory: two threads read while the model
        computes. A file that can't be read is passed to ``on_error`` and skipped; without ``on_error`` its error is
        raised after the others were yielded. What isn't a picture is left out with an ``ImageWarning``; see
        ``chameleon_vq.pictures.pictures_in``.
        """
        yield from self.encode_files(pictures_in(folder), batch_size=batch_size, on_error=on_error)

    def encode_files(
        self,
        paths: Iterable[Path],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Path, ChameleonVQError], None] | None = None,
    ) -> Iterator[tuple[Path, Tensor]]:
        """Encode picture files, and yield each path with its codes, int64 [N]; see ``encode_folder``.

        ``paths`` is iterated two batches ahead of what is yielded.
        """
        pixels = math.prod(self._default_resolution())
        if not self.image_processor.do_center_crop:
            batch_size, pixels = 1, 0  # their sizes differ
        together = batch_of(batch_size, pixels)
        failures: list[ChameleonVQError] = []
        report = on_error or (lambda _, error: failures.append(error))
        for part in batches(self._read(paths, report, ahead=2 * together), together):
            codes_BN = self.encode_pixels(torch.cat([pixels_1CHW for _, pixels_1CHW in part]))
            yield from zip((path for path, _ in part), codes_BN, strict=True)
        if failures:
            raise failures[0] if len(failures) == 1 else unread_pictures(failures)

    @torch.no_grad()
    def encode_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode pixels from the image processor, [B, C, H, W], to codes: int64 [B, N]. Raises ``ImageError``."""
        return self.encoding_of_pixels(pixels_BCHW).codes_Bhw.flatten(1).cpu()

    @torch.no_grad()
    def encoding_of_pixels(self, pixels_BCHW: Tensor) -> VQEncoding:
        """Encode pixels from the image processor, and return latents beside the codes. Raises ``ImageError``."""
        check_pixel_tensor(pixels_BCHW, self.model.config.in_channels)
        check_sides(*pixels_BCHW.shape[2:], stride=self.model.config.stride)
        check_pixel_range(pixels_BCHW, largest=self.image_processor.largest_pixel)
        weight = self.model.quant_conv.weight
        return self.model.encode(pixels_BCHW.to(weight.device, weight.dtype))

    @torch.no_grad()
    def decode(
        self, codes_BN: Codes, *, latent_size: tuple[int, int] | None = None, batch_size: int | None = None
    ) -> list[PIL.Image.Image]:
        """Decode codes to pictures.

        ``latent_size``, the height and width of the grid, is needed if it isn't the default one, and ``batch_size`` is
        as in ``encode``. Raises ``CodesError``, and ``MissingDecoderError`` if the weights have no decoder.
        """
        self.model.require_decoder()
        height, width = self._grid_size(latent_size)
        codes_BN = checked_codes(codes_BN, ndim=2, num_codes=self.num_codes)
        count = height * width * self.codes_per_position
        if codes_BN.shape[1] != count:
            raise CodesError(
                f"got {codes_BN.shape[1]} codes per picture, expected {count} for a grid of {height}×{width}. Pass "
                "latent_size=(height, width) for another grid; use preview() for the first codes of a picture."
            )
        device = self.model.quant_conv.weight.device
        images: list[PIL.Image.Image] = []
        pixels = height * width * self.model.config.stride**2
        for part in batches(codes_BN, batch_size, pixels=pixels):
            images += pixels_to_images(self.model.decode(self._grid(torch.stack(part).to(device), height, width)))
        return images

    def preview(self, codes_n: Codes, *, latent_size: tuple[int, int] | None = None) -> PIL.Image.Image:
        """Decode the first codes of a picture: complete rows of the latent grid are drawn, the rest is grey.

        The cost is in proportion to the rows drawn; the lowest of them change a little when more follow. Raises
        ``CodesError``, ``MissingDecoderError``.
        """
        height, width = self._grid_size(latent_size)
        codes_n = checked_codes(codes_n, ndim=1, num_codes=self.num_codes)
        per_row = width * self.codes_per_position
        if len(codes_n) > height * per_row:
            raise CodesError(
                f"got {len(codes_n)} codes, expected at most {height * per_row} for a grid of {height}×{width}."
            )
        stride, channels = self.model.config.stride, self.model.config.picture_channels
        check_pixels(width * stride, height * stride, self.image_processor.pixel_limit, "the preview")
        [image] = pixels_to_images(torch.zeros(1, channels, height * stride, width * stride))
        rows = len(codes_n) // per_row
        if rows:
            [drawn] = self.decode(codes_n[None, : rows * per_row], latent_size=(rows, width))
            image.paste(drawn, (0, 0))
        return image

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by their names in Meta's release, without a prefix ("encoder.conv_in.weight")."""
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def config_dict(self) -> dict[str, Any]:
        """Return the mapping for ``vq_config`` in a model's ``config.json``."""
        return checkpoint.config_dict(self.model)

    @property
    def _upright(self) -> bool:
        # PIL images with an EXIF orientation are rotated upright as files are, since that is what people see.
        return self.image_processor.do_exif_transpose is not False

    def _covering(self, picture: Picture, size: tuple[int, int]) -> Tensor:
        """Return the pixels [1, C, H, W] of a picture that is resized to cover a height and width, and cropped."""
        upright = self.image_processor.upright(picture, exif=self._upright)
        processor = self.image_processor.covering(size, of=(upright.height, upright.width))
        pixels_1CHW: Tensor = processor.preprocess(upright, do_exif_transpose=False)["pixel_values"]
        return pixels_1CHW

    def _sides(self, resolution: int | None, size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the height and width that pictures are encoded at."""
        if size is not None and resolution is not None:
            raise ImageError(f"got resolution {resolution} and size {size}; expected one of them.")
        if resolution is not None:
            size = resolution, resolution
        if size is None:
            return self._default_resolution()
        height, width = size
        check_sides(height, width, stride=self.model.config.stride)
        return height, width

    def _default_resolution(self) -> tuple[int, int]:
        if self.image_processor.do_center_crop:
            return self.image_processor.crop_size["height"], self.image_processor.crop_size["width"]
        return self.model.config.resolution, self.model.config.resolution

    def _read(
        self, paths: Iterable[Path], on_error: Callable[[Path, ChameleonVQError], None], *, ahead: int
    ) -> Iterator[tuple[Path, Tensor]]:
        for path, read in read_ahead(self._pixels_of_file, paths, ahead=ahead):
            try:
                pixels_1CHW = read()
            except (ImageError, MissingFileError) as error:
                on_error(path, error)
            else:
                yield path, pixels_1CHW

    def _pixels_of_file(self, path: Path) -> Tensor:
        pixels_1CHW = self.pixels(path)
        check_sides(*pixels_1CHW.shape[2:], stride=self.model.config.stride)
        return pixels_1CHW

    def _grid_size(self, latent_size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the height and width of a grid, by default the default one. Raises ``CodesError``."""
        if latent_size is None:
            return self.latent_size
        sides = tuple(latent_size) if isinstance(latent_size, Sequence) else ()
        if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= _LARGEST_SIDE for side in sides):
            raise CodesError(
                f"latent_size is {latent_size!r}, expected the height and width of the grid, each 1…{_LARGEST_SIDE}."
            )
        return sides[0], sides[1]

    def _grid(self, codes_BN: Tensor, height: int, width: int) -> Tensor:
        per_position = self.codes_per_position
        shape = (-1, height, width) if per_position == 1 else (-1, height, width, per_position)
        return codes_BN.view(shape)
