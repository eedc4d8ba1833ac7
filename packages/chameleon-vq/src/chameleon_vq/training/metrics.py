"""How good reconstructions are, and how a codebook is used. PSNR and SSIM are scikit-image's.

Shapes: N pictures, C channels, H W pixels, K codes, Q codes per position, P positions, D width of a latent.
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


@dataclass(frozen=True, slots=True)
class Quality:
    """What ``measure`` gives; means over the pictures."""

    psnr: float
    """Peak signal-to-noise ratio, dB, of the pictures rounded to 8 bits."""
    ssim: float
    """Structural similarity (Wang et al. 2004), by scikit-image with its defaults: uniform windows of 7 pixels."""
    codebook_usage: float
    """The fraction of the codes that these pictures use."""
    perplexity: float
    """2 to the entropy of the codes in bits: how many codes, if all were used equally.

    Where a position has several codes, the mean over its places.
    """


def to_levels(pixels_NCHW: Tensor) -> Tensor:
    """Pixels in −1…1 to the nearest of 256 levels: uint8 of the same shape."""
    return ((pixels_NCHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def measure(model: ChameleonVQVAE, pixels_NCHW: Tensor, *, batch_size: int = 32) -> Quality:
    """Encode and decode pictures (pixels in −1…1, at least 7 a side) and compare. The model's mode stays as it is."""
    if not len(pixels_NCHW):
        raise ImageError("there are no pictures to measure.")
    was_training = model.training
    model.eval()
    rows = []
    quantizer = model.quantize
    usage_QK = torch.zeros(
        quantizer.codes_per_position, quantizer.num_codes, dtype=torch.int64, device=pixels_NCHW.device
    )
    for real_BCHW in torch.split(pixels_NCHW, batch_size):
        drawn = model(real_BCHW)
        rows += compare(to_levels(real_BCHW), to_levels(drawn.pixels_BCHW))
        usage_QK += usage_by_place(drawn.encoding.codes_Bhw, quantizer)
    model.train(was_training)
    psnr, ssim = np.mean(rows, axis=0)
    return Quality(float(psnr), float(ssim), *codebook_figures(usage_QK))


def compare(real_NCHW: Tensor, drawn_NCHW: Tensor) -> list[tuple[float, float]]:
    """PSNR in dB and SSIM of each pair of uint8 pictures. A perfect copy counts as 100 dB."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise MissingPackageError(
            "PSNR and SSIM are scikit-image's. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    rows = []
    for real_CHW, drawn_CHW in zip(real_NCHW.cpu().numpy(), drawn_NCHW.cpu().numpy(), strict=True):
        psnr = 100.0
        if not np.array_equal(real_CHW, drawn_CHW):
            psnr = peak_signal_noise_ratio(real_CHW, drawn_CHW, data_range=255)  # type: ignore[no-untyped-call]
        ssim = structural_similarity(  # type: ignore[no-untyped-call]
            real_CHW, drawn_CHW, data_range=255, channel_axis=0
        )
        rows.append((float(psnr), float(ssim)))
    return rows


def usage_by_place(codes: Tensor, quantizer: VectorQuantizer) -> Tensor:
    """How often each code stands in each of a position's places: int64 [Q, K], of codes [B, h, w] or [B, h, w, Q]."""
    places = codes.reshape(-1, quantizer.codes_per_position).unbind(1)
    return torch.stack([count_codes(codes_P, quantizer.num_codes) for codes_P in places])


def codebook_figures(usage: Tensor) -> tuple[float, float]:
    """The fraction of codes that were used and their perplexity, of a usage [K] or [Q, K]: means over places."""
    figures = [_figures_of_a_place(usage_K) for usage_K in usage.reshape(-1, usage.shape[-1])]
    fraction, perplexity = np.mean(figures, axis=0)
    return float(fraction), float(perplexity)


def _figures_of_a_place(usage_K: Tensor) -> tuple[float, float]:
    share_K = usage_K.double() / usage_K.sum().clamp(min=1)
    used_K = share_K[share_K > 0]
    return len(used_K) / len(usage_K), math.exp(-float((used_K * used_K.log()).sum()))


def effective_rank(latents_PD: Tensor) -> float:
    """How many dimensions the latents [P, D] really use: e to the entropy of the shares of their variance.

    From 1 to D. Source: Roy and Vetterli 2007, "The effective rank", of the covariance.
    """
    centred_PD = latents_PD.double() - latents_PD.double().mean(dim=0)
    variance_D = torch.linalg.svdvals(centred_PD).square()
    share_D = variance_D / variance_D.sum().clamp(min=1e-300)
    used_D = share_D[share_D > 0]
    return math.exp(-float((used_D * used_D.log()).sum()))
