"""Pictures beside their reconstructions from codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from .pictures import Picture, batches, list_pictures
from .tokenizer import ImageTokenizer

_GAP = 8
_CAPTION = 20


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A picture as the tokenizer saw it, and as it is decoded from its codes."""

    original: PIL.Image.Image
    """The picture, resized and cropped."""
    reconstruction: PIL.Image.Image
    """The picture decoded from its codes, of the same size."""
    psnr: float
    """Peak signal-to-noise ratio of the reconstruction, in dB; infinite for a perfect copy."""

    def side_by_side(self) -> PIL.Image.Image:
        """Return both in one picture, with the ratio written below."""
        width, height = self.original.size
        sheet = PIL.Image.new("RGB", (2 * width + _GAP, height + _CAPTION), "white")
        sheet.paste(self.original, (0, 0))
        sheet.paste(self.reconstruction, (width + _GAP, 0))
        draw = PIL.ImageDraw.Draw(sheet)
        font = PIL.ImageFont.load_default()
        for left, caption in ((0, "original"), (width + _GAP, f"reconstruction, {self.psnr:.2f} dB")):
            draw.text((left + 4, height + 4), caption, fill="black", font=font)
        return sheet


def reconstruct(
    tokenizer: ImageTokenizer, images: Picture | Iterable[Picture], *, batch_size: int = 4
) -> Iterator[Reconstruction]:
    """Encode and decode pictures, a batch at a time, and yield each with its reconstruction.

    Raises the errors of ``ImageTokenizer.encode`` and ``decode``.
    """
    if not tokenizer.image_processor.do_center_crop:
        batch_size = 1  # their sizes differ
    stride = tokenizer.model.config.stride
    for part in batches(list_pictures(images), batch_size):
        crops = tokenizer.crop(part)
        latent_size = (crops[0].height // stride, crops[0].width // stride)
        drawn = tokenizer.decode(tokenizer.encode(crops), latent_size=latent_size)
        for original, reconstruction in zip(crops, drawn, strict=True):
            yield Reconstruction(original, reconstruction, psnr(original, reconstruction))


def psnr(first: PIL.Image.Image, second: PIL.Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit pictures, in dB; infinite if they are equal."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
