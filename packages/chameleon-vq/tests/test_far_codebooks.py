"""Codebooks whose entries lie far from zero compared with their distances: the nearest entry is still found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from chameleon_vq.quantizers.codebook import Codebook
from chameleon_vq.quantizers.ema import EMACodebook
from chameleon_vq.quantizers.residual import ResidualCodebooks
from chameleon_vq.training.codebooks import kmeans

CODES = torch.arange(256).view(1, 16, 16)


def far(entries_ZD: Tensor, kind: type[Codebook] = Codebook, dtype: torch.dtype = torch.float32) -> Codebook:
    codebook = kind(*entries_ZD.shape)
    with torch.no_grad():
        codebook.embedding.weight.copy_(entries_ZD)
    return codebook.to(dtype).eval()


def normal(width: int, seed: int = 0) -> Tensor:
    return torch.randn(256, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [Codebook, EMACodebook])
@pytest.mark.parametrize(("offset", "spread"), [(-30, 0.02), (250, 0.5), (5_000, 1.0), (1e-3, 1e-7), (1e6, 10.0)])
@pytest.mark.parametrize("width", [3, 64])
def test_an_entry_far_from_zero_is_nearest_to_itself(
    kind: type[Codebook], offset: float, spread: float, width: int
) -> None:
    codebook = far(offset + spread * normal(width), kind)
    assert torch.equal(codebook(codebook.lookup(CODES)).codes, CODES)


def test_clusters_on_both_sides_of_zero_don_t_cancel_either() -> None:
    # Their mean is zero, so subtracting it would not help.
    signs_Z1 = torch.tensor([1.0, -1.0]).repeat(128)[:, None]
    codebook = far(800 * signs_Z1 + 0.3 * normal(8))
    assert torch.equal(codebook.nearest(codebook.lookup(CODES)), CODES)


@pytest.mark.parametrize("offset", [0.0, 40.0, 3_000.0])
def test_the_nearest_entry_is_that_of_float64(offset: float) -> None:
    entries_ZD, latents_MD = offset + normal(4), offset + normal(4, seed=1)
    exact = torch.cdist(latents_MD.double(), entries_ZD.double(), compute_mode="donot_use_mm_for_euclid_dist")
    latents_BDhw = latents_MD.T.reshape(1, 4, 16, 16)
    assert torch.equal(far(entries_ZD).nearest(latents_BDhw).flatten(), exact.argmin(dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_entries_of_another_dtype_are_found_too(dtype: torch.dtype) -> None:
    # 256 values of one binade, each exact in bfloat16 as a pair.
    values_Z = 128 + torch.arange(256) % 16
    entries_ZD = torch.stack([values_Z, 128 + torch.arange(256) // 16], dim=1).float()
    codebook = far(entries_ZD, dtype=dtype)
    latents_BDhw = codebook.lookup(CODES)
    assert latents_BDhw.dtype == dtype
    assert torch.equal(codebook.nearest(latents_BDhw), CODES)


def test_levels_far_from_zero_are_found_one_after_the_other() -> None:
    levels = [far(2_000 + 50 * normal(8)), far(0.5 * normal(8, seed=1), EMACodebook)]
    quantizer = ResidualCodebooks(levels).eval()
    first = levels[0].lookup(CODES)
    assert torch.equal(quantizer(first).codes[..., 0], CODES)


def test_of_equal_entries_far_from_zero_the_first_is_chosen() -> None:
    entries_ZD = (900 + normal(8))[:128].repeat(2, 1)
    codebook = far(entries_ZD)
    assert torch.equal(codebook.nearest(codebook.lookup(CODES)).flatten(), torch.arange(256) % 128)


def test_k_means_finds_each_latent_far_from_zero() -> None:
    """With as many entries as latents, an entry is the latent that it began at: no other is nearer."""
    latents_MD = 1e4 + normal(8)
    entries_ZD = kmeans(latents_MD, len(latents_MD), np.random.default_rng(0), iterations=3)
    assert sorted(entries_ZD.tolist()) == sorted(latents_MD.tolist())
