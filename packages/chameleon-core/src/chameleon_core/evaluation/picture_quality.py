"""How well an image tokenizer's codes keep pictures.

PSNR and SSIM are those of chameleon-vq's training, by scikit-image. What needs weights that nobody ships, a perceptual
distance and the features of a Fréchet distance, are functions that the caller gives.

Shapes: B pictures, C channels, H W pixels, N codes of a picture, Q codes for each position, Z codes of the quantizer,
F features of a picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..optional_packages import vq_package
from .results import PictureFigures

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual distance: of pixels [B, 3, H, W] in −1…1 of two sets of pictures, a number for each pair, [B]."""
Features = Callable[[Tensor], Tensor]
"""Features of pictures: of pixels [B, 3, H, W] in −1…1 a vector for each, [B, F]."""
Progress = Callable[[str, int, int], None]
"""Called with what is measured, and how many of how many pieces of it are done."""

TOGETHER = 32
"""The most pictures that are encoded and decoded together."""
PIXELS_TOGETHER = 2**20
"""The most pixels of them, where a picture alone has no more."""


def measure_pictures(
    tokenizer: Any,
    pictures: Sequence[Any],
    name: str,
    *,
    distance: Distance | None = None,
    features: Features | None = None,
    progress: Progress = lambda what, done, total: None,
) -> PictureFigures:
    """Encode and decode pictures (files, PIL images, uint8 arrays) and compare them with what is decoded.

    Raises ``ConfigError`` where there are none, ``MissingPackageError`` without scikit-image, and the errors of
    ``chameleon_vq.ImageTokenizer``.
    """
    if not pictures:
        raise ConfigError(f"{name} has no pictures to measure the image tokenizer on; expected at least one.")
    if not isinstance(tokenizer, vq_package().ImageTokenizer):
        raise ConfigError(
            f"the image tokenizer is a {type(tokenizer).__name__}; pictures are measured with an ImageTokenizer of "
            "chameleon-vq."
        )
    training = _training_of_vq()
    quantizer = tokenizer.model.quantize
    usage_QZ = torch.zeros(quantizer.codes_per_position, quantizer.num_codes, dtype=torch.int64)
    rows: list[tuple[float, float]] = []
    distances: list[Tensor] = []
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    seconds = [0.0, 0.0]
    for part in _parts(tokenizer, pictures):
        crops = tokenizer.crop(part)
        started = time.perf_counter()
        codes_BN = tokenizer.encode(crops, batch_size=TOGETHER)
        encoded = time.perf_counter()
        drawn = tokenizer.decode(codes_BN, latent_size=_grid(tokenizer, crops[0]), batch_size=TOGETHER)
        seconds = [seconds[0] + encoded - started, seconds[1] + time.perf_counter() - encoded]
        real_BCHW, drawn_BCHW = _levels(crops), _levels(drawn)
        rows += training.compare(real_BCHW, drawn_BCHW)
        usage_QZ += training.metrics.usage_by_place(codes_BN, quantizer).cpu()
        if distance is not None:
            distances.append(_called("distance", distance, _pixels(real_BCHW), _pixels(drawn_BCHW)).reshape(-1))
        if features is not None:
            for kept, levels_BCHW in zip(seen, (real_BCHW, drawn_BCHW), strict=True):
                kept.append(_called("features", features, _pixels(levels_BCHW)).flatten(1))
        progress(f"encoding and decoding {name}", len(rows), len(pictures))
    psnr = [one for one, _ in rows]
    used, perplexity = training.codebook_figures(usage_QZ)
    lowest = sorted(psnr)[: max(1, len(psnr) // 10)]
    return PictureFigures(
        name=name,
        pictures=len(rows),
        psnr=sum(psnr) / len(psnr),
        psnr_lowest_tenth=sum(lowest) / len(lowest),
        ssim=sum(one for _, one in rows) / len(rows),
        codes_used=used,
        perplexity=perplexity,
        encoded_per_second=len(rows) / seconds[0],
        decoded_per_second=len(rows) / seconds[1],
        lpips=float(torch.cat(distances).double().mean()) if distances else None,
        rfid=frechet_distance(torch.cat(seen[0]), torch.cat(seen[1])) if features is not None else None,
        psnr_of_each=tuple(round(one, 3) for one in psnr),
    )


def frechet_distance(first_BF: Tensor, second_BF: Tensor) -> float:
    """Return the Fréchet distance of two sets of features, as if each were normally distributed.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), in float64. Source: Heusel et al. 2017 (arXiv 1706.08500). Raises
    ``ConfigError`` for fewer than two pictures.
    """
    if min(len(first_BF), len(second_BF)) < 2:
        raise ConfigError("a Fréchet distance needs at least two pictures; give a folder with more of them.")
    means, covariances = [], []
    for features_BF in (first_BF.double(), second_BF.double()):
        means.append(features_BF.mean(dim=0))
        covariances.append(torch.cov(features_BF.T).reshape(features_BF.shape[1], features_BF.shape[1]))
    values_F, vectors_FF = torch.linalg.eigh(covariances[0])
    root_FF = vectors_FF * values_F.clamp(min=0).sqrt() @ vectors_FF.T
    # Σ₁Σ₂ has the eigenvalues of this, which is symmetric.
    products_F = torch.linalg.eigvalsh(root_FF @ covariances[1] @ root_FF).clamp(min=0)
    spread = covariances[0].trace() + covariances[1].trace() - 2 * products_F.sqrt().sum()
    return float((means[0] - means[1]).square().sum() + spread)


def _parts(tokenizer: Any, pictures: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield as many pictures as are processed together, one at a time where their sizes differ."""
    height, width = (side * tokenizer.model.config.stride for side in tokenizer.latent_size)
    together = max(1, min(TOGETHER, PIXELS_TOGETHER // (height * width)))
    if not tokenizer.image_processor.do_center_crop:
        together = 1
    for start in range(0, len(pictures), together):
        yield list(pictures[start : start + together])


def _grid(tokenizer: Any, crop: Any) -> tuple[int, int]:
    stride = tokenizer.model.config.stride
    return crop.height // stride, crop.width // stride


def _training_of_vq() -> Any:
    vq_package()
    import chameleon_vq.training.metrics

    return chameleon_vq.training


def _levels(pictures: Sequence[Any]) -> Tensor:
    """Return PIL images of one size as uint8 [B, 3, H, W]."""
    import numpy as np

    levels_BHWC = np.stack([np.asarray(each.convert("RGB")) for each in pictures])
    return torch.from_numpy(levels_BHWC).permute(0, 3, 1, 2)


def _pixels(levels_BCHW: Tensor) -> Tensor:
    return levels_BCHW.float() / 127.5 - 1


@torch.no_grad()
def _called(what: str, function: Callable[..., Any], *pixels_BCHW: Tensor) -> Tensor:
    """Return what a function of the caller's returns, on the CPU. Raises ``ConfigError`` where it has another form."""
    found = function(*pixels_BCHW)
    expected = len(pixels_BCHW[0])
    if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != expected or not found.is_floating_point():
        form = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"the function for {what} returned {form} for {expected} pictures, expected a floating-point tensor with a "
            "row for each."
        )
    return found.detach().cpu()
