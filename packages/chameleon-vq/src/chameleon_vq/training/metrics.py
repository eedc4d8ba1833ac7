"""The quality of reconstructions, and how a codebook is used. PSNR and SSIM come from scikit-image.

Shapes: B pictures, C channels, H W pixels, Z codes of the quantizer, Q codes per position, M positions, D width of a
latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, MissingPackageError
from ..model import ChameleonVQVAE
from ..quantizers import VectorQuantizer
from ..quantizers.contract import count_codes
from ._old_names import renamed_arguments
from .ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Quality:
    """What ``measure`` returns; means over the pictures."""

    psnr: float
    """Peak signal-to-noise ratio of the pictures rounded to 8 bits, in dB; 100 for a perfect copy."""
    ssim: float
    """Structural similarity (Wang et al. 2004), −1…1, by scikit-image's defaults: uniform windows of 7 pixels."""
    codebook_usage: float
    """The fraction of the codes that these pictures use, 0…1."""
    perplexity: float
    """2 to the entropy of the codes in bits, 1…num_codes: the number of codes if all were used equally.

    With several codes per position, the mean over them.
    """


@renamed_arguments(pixels_NCHW="pixels_BCHW")
def to_levels(pixels_BCHW: Tensor) -> Tensor:
    """Round pixels in −1…1 to the nearest of 256 levels: uint8 of the same shape."""
    return ((pixels_BCHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@renamed_arguments(pixels_NCHW="pixels_BCHW")
@torch.no_grad()
def measure(model: ChameleonVQVAE, pixels_BCHW: Tensor, *, batch_size: int = 32, ranks: Ranks = ALONE) -> Quality:
    """Encode and decode pictures and compare them with the originals.

    The pixels are in −1…1, at least 7 a side. The model's training mode is restored. Several ranks, which pass the same
    pictures, share the work. Raises ``ImageError`` if there are no pictures.
    """
    if not len(pixels_BCHW):
        raise ImageError("there are no pictures to measure; expected pixels [B, C, H, W] of at least one.")
    was_training = model.training
    model.eval()
    rows: list[tuple[float, float]] = []
    quantizer = model.quantize
    usage_QZ = torch.zeros(
        quantizer.codes_per_position, quantizer.num_codes, dtype=torch.int64, device=pixels_BCHW.device
    )
    own_BCHW = pixels_BCHW[ranks.share(len(pixels_BCHW))]
    for real_BCHW in torch.split(own_BCHW, batch_size) if len(own_BCHW) else ():
        drawn = model(real_BCHW)
        rows += compare(to_levels(real_BCHW), to_levels(drawn.pixels_BCHW))
        usage_QZ += usage_by_place(drawn.encoding.codes_Bhw, quantizer)
    model.train(was_training)
    sums = torch.from_numpy(np.sum(np.reshape(rows, (-1, 2)), axis=0)).to(pixels_BCHW.device)
    psnr, ssim = (ranks.add(sums) / len(pixels_BCHW)).tolist()
    return Quality(psnr, ssim, *codebook_figures(ranks.add(usage_QZ)))


@renamed_arguments(real_NCHW="real_BCHW", drawn_NCHW="drawn_BCHW")
def compare(real_BCHW: Tensor, drawn_BCHW: Tensor) -> list[tuple[float, float]]:
    """Return the PSNR in dB and the SSIM of each pair of uint8 pictures. A perfect copy counts as 100 dB."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise MissingPackageError(
            "PSNR and SSIM need scikit-image. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    rows = []
    for real_CHW, drawn_CHW in zip(real_BCHW.cpu().numpy(), drawn_BCHW.cpu().numpy(), strict=True):
        psnr = 100.0
        if not np.array_equal(real_CHW, drawn_CHW):
            psnr = peak_signal_noise_ratio(real_CHW, drawn_CHW, data_range=255)  # type: ignore[no-untyped-call]
        ssim = structural_similarity(  # type: ignore[no-untyped-call]
            real_CHW, drawn_CHW, data_range=255, channel_axis=0
        )
        rows.append((float(psnr), float(ssim)))
    return rows


def usage_by_place(codes: Tensor, quantizer: VectorQuantizer) -> Tensor:
    """Count each code separately for each of a position's codes: int64 [Q, Z], of codes [B, h, w] or [B, h, w, Q]."""
    places = codes.reshape(-1, quantizer.codes_per_position).unbind(1)
    return torch.stack([count_codes(codes_M, quantizer.num_codes) for codes_M in places])


def codebook_figures(usage: Tensor) -> tuple[float, float]:
    """Return the fraction of codes in use and their perplexity, of a usage [Z] or [Q, Z]: means over Q."""
    figures = [_figures_of_a_place(usage_Z) for usage_Z in usage.reshape(-1, usage.shape[-1])]
    fraction, perplexity = np.mean(figures, axis=0)
    return float(fraction), float(perplexity)


def _figures_of_a_place(usage_Z: Tensor) -> tuple[float, float]:
    share_Z = usage_Z.double() / usage_Z.sum().clamp(min=1)
    used = share_Z[share_Z > 0]
    return len(used) / len(usage_Z), math.exp(-float((used * used.log()).sum()))


def effective_rank(latents_MD: Tensor) -> float:
    """Return how many dimensions the latents [M, D] use: e to the entropy of the shares of their variance, 1…D.

    Source: Roy and Vetterli 2007, "The effective rank", of the covariance.
    """
    centred_MD = latents_MD.double() - latents_MD.double().mean(dim=0)
    variance_D = torch.linalg.svdvals(centred_MD).square()
    share_D = variance_D / variance_D.sum().clamp(min=1e-300)
    used = share_D[share_D > 0]
    return math.exp(-float((used * used.log()).sum()))
