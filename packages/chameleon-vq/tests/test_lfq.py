"""Lookup-free quantization: by the conformance suite, by hand, and against one that enumerates the codes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from chameleon_vq import ChameleonVQVAEConfig, ConfigError
from chameleon_vq.quantizers.lfq import LFQ, entropy_penalty
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance


class TestLFQ(VectorQuantizerConformance):
    name = "lfq"
    config_fields = {"embed_dim": 5}


class TestLFQOfOneBit(VectorQuantizerConformance):
    name = "lfq"
    config_fields = {"embed_dim": 1, "num_embeddings": 2, "quantizer_options": {"temperature": 1.0}}


def entropies(probabilities_MZ: npt.NDArray[np.float64]) -> tuple[float, float]:
    """``H(code | latent)`` and ``H(code)`` in nats, from the table of all codes' probabilities."""

    def entropy(probabilities_Z: npt.NDArray[np.float64]) -> float:
        return -sum(p * math.log(p) for p in probabilities_Z.tolist() if p > 0)

    return float(np.mean([entropy(row_Z) for row_Z in probabilities_MZ])), entropy(probabilities_MZ.mean(axis=0))


def probabilities_of_codes(latents_MD: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """As published: the softmax over all corners of minus the squared distance over the temperature."""
    signs = list(itertools.product((-1.0, 1.0), repeat=latents_MD.shape[1]))
    corners_ZD = np.array(signs)[:, ::-1]  # the first channel is the lowest bit
    distances_MZ = ((latents_MD[:, None] - corners_ZD) ** 2).sum(axis=2)
    exponentials_MZ = np.exp(-(distances_MZ - distances_MZ.min(axis=1, keepdims=True)) / temperature)
    table_MZ: npt.NDArray[np.float64] = exponentials_MZ / exponentials_MZ.sum(axis=1, keepdims=True)
    return table_MZ


def test_each_channel_s_sign_is_a_bit_the_first_the_lowest() -> None:
    quantizer = LFQ(3)
    points = [[-1.0, -0.1, -2.0], [0.5, -1.0, -1.0], [-1.0, 0.1, -1.0], [-3.0, -1.0, 0.1], [1.0, 1.0, 1.0]]
    quantized = quantizer(torch.tensor(points).T.reshape(1, 3, 1, 5))
    assert quantized.codes.flatten().tolist() == [0, 1, 2, 4, 7]
    assert quantized.latents[0, :, 0].T.tolist() == [[math.copysign(1, value) for value in point] for point in points]
    # Zero is not above zero, and NaN isn't either.
    assert quantizer(torch.tensor([0.0, math.nan, math.inf]).view(1, 3, 1, 1)).codes.item() == 4


def test_every_corner_is_its_own_code() -> None:
    quantizer = LFQ(10)
    every_code = torch.arange(1024).view(1, 32, 32)
    corners_BDhw = quantizer.lookup(every_code)
    assert corners_BDhw.abs().eq(1).all()
    assert torch.equal(quantizer(corners_BDhw).codes, every_code)


def test_the_entropies_by_hand() -> None:
    # Two bits, two latents. The first is sure of code 3. The second's low bit is 1 with probability 3/4, its high bit
    # undecided: codes 0…3 with 1/8, 3/8, 1/8, 3/8. On average 1/16, 3/16, 1/16, 11/16.
    logits_MD = torch.tensor([[100.0, 100.0], [math.log(3), 0.0]], dtype=torch.float64)
    of_each = (0 + 2 * (-1 / 8 * math.log(1 / 8)) + 2 * (-3 / 8 * math.log(3 / 8))) / 2
    of_all = sum(-p * math.log(p) for p in (1 / 16, 3 / 16, 1 / 16, 11 / 16))
    assert entropy_penalty(logits_MD).item() == pytest.approx(of_each + math.log(4) - of_all, abs=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_the_loss_is_the_published_one(bits: int, temperature: float) -> None:
    latents_MD = np.random.default_rng(0).normal(size=(20, bits))
    of_each, of_all = entropies(probabilities_of_codes(latents_MD, temperature))
    commitment = float(np.mean((latents_MD - np.where(latents_MD > 0, 1, -1)) ** 2))
    expected = 0.5 * commitment + 0.2 * (of_each + bits * math.log(2) - of_all)
    quantizer = LFQ(bits, commitment_weight=0.5, entropy_weight=0.2, temperature=temperature)
    latents_BDhw = torch.from_numpy(latents_MD).T.reshape(1, bits, 4, 5)
    assert quantizer(latents_BDhw).loss.item() == pytest.approx(expected, rel=1e-9)


def test_the_loss_is_least_where_each_latent_is_sure_and_all_codes_are_used() -> None:
    quantizer = LFQ(4)
    assert quantizer(quantizer.lookup(torch.arange(16).view(1, 4, 4))).loss.item() == pytest.approx(0, abs=1e-5)
    one_code = quantizer(quantizer.lookup(torch.zeros(1, 4, 4, dtype=torch.int64))).loss.item()
    assert one_code == pytest.approx(0.1 * math.log(16), abs=1e-5)


def test_the_loss_s_gradient_is_its_slope() -> None:
    """Against finite differences in float64; the signs stay as they are for so small a step."""
    quantizer = LFQ(5, temperature=0.7)
    latents_BDhw = torch.randn(2, 5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(latents_BDhw: Tensor) -> Tensor:
        return quantizer(latents_BDhw).loss

    assert torch.autograd.gradcheck(loss, latents_BDhw.requires_grad_(), eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_embeddings": 1000},
            "num_embeddings is 1000; .* must be a power of two, such as 512 or 1024",
        ),
        ({}, "embed_dim is 256 and num_embeddings 8192, which is 2 to the power of 13; .* embed_dim must be 13"),
        (
            {"embed_dim": 13, "quantizer_options": {"temperature": 0}},
            "'lfq' expects temperature to be a finite number > 0; got 0",
        ),
        (
            {"embed_dim": 13, "quantizer_options": {"entropy_weight": -1}},
            "'lfq' expects entropy_weight to be a finite number ≥ 0; got -1",
        ),
        (
            {"embed_dim": 13, "quantizer_options": {"gamma": 1}},
            "'lfq' has no quantizer_option 'gamma', only entropy_weight, commitment_weight, temperature",
        ),
    ],
)
def test_wrong_configurations_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(ChameleonVQVAEConfig(quantizer="lfq", **fields))
