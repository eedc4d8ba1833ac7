"""Finite scalar quantization: by the conformance suite, and against an implementation that counts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_vq import ChameleonVQVAEConfig, ConfigError
from chameleon_vq.quantizers.fsq import FSQ
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance

LEVELS = [[2], [3], [5, 2], [3, 4, 2], [8, 5, 5, 5], [2] * 8, [1000]]


class TestFSQ(VectorQuantizerConformance):
    name = "fsq"
    config_fields = {"embed_dim": 3, "num_embeddings": 40, "quantizer_options": {"levels": [2, 4, 5]}}
    not_applicable = {"test_the_gradient_goes_straight_through": "it passes the bound, as published"}


def grid(*points: tuple[float, ...]) -> Tensor:
    """Points as latents [1, D, 1, len(points)]."""
    return torch.tensor(points).T.reshape(1, len(points[0]), 1, -1)


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_count_the_levels_in_mixed_radix(levels: list[int]) -> None:
    quantizer = FSQ(levels)
    # itertools counts with the last digit the fastest; here the first is.
    digits = [numbers[::-1] for numbers in itertools.product(*map(range, reversed(levels)))]
    middles = [[(2 * digit + 1 - level) / level for digit, level in zip(row, levels, strict=True)] for row in digits]
    expected_BDhw = grid(*middles).double().atanh()
    every_code = torch.arange(math.prod(levels)).view(1, 1, -1)
    assert quantizer.num_codes == every_code.numel()
    torch.testing.assert_close(quantizer.lookup(every_code).double(), expected_BDhw, rtol=1e-4, atol=1e-6)
    quantized = quantizer(quantizer.lookup(every_code))
    assert torch.equal(quantized.codes, every_code)
    assert torch.equal(quantized.usage, torch.ones(quantizer.num_codes, dtype=torch.int64))


@pytest.mark.parametrize("level", [2, 3, 4, 5, 8, 31])
def test_a_channel_is_the_equal_part_of_the_bounds_that_tanh_falls_into(level: int) -> None:
    latents_M = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    edges = [-1 + 2 * number / level for number in range(1, level)]
    expected = [sum(math.tanh(latent) >= edge for edge in edges) for latent in latents_M.tolist()]
    assert FSQ([level])(latents_M.view(1, 1, 1, -1)).codes.flatten().tolist() == expected


def test_by_hand() -> None:
    # tanh(0.2) = 0.197 lies in the third of four parts, the one from 0 to 0.5; tanh(−2) in the first of three.
    quantized = FSQ([4, 3])(grid((0.2, -2.0)))
    assert quantized.codes.item() == 2 + 4 * 0
    torch.testing.assert_close(quantized.latents, grid((math.atanh(0.25), math.atanh(-2 / 3))))
    assert quantized.loss.item() == 0


def test_the_gradient_is_that_of_the_bound() -> None:
    """Against finite differences of the same without the rounding, in float64."""
    quantizer = FSQ([8, 5]).double()
    latents_BDhw = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    latents_BDhw.requires_grad_()
    quantized_BDhw = quantizer(latents_BDhw).latents
    (gradient_BDhw,) = torch.autograd.grad(quantized_BDhw.sum(), latents_BDhw)

    # Straight through the rounding: what a small step adds to the bounded value, it adds to the rounded one.
    step = 1e-6
    with torch.no_grad():
        rounded_BDhw = quantized_BDhw.tanh()
        added_BDhw = (latents_BDhw + step).tanh() - (latents_BDhw - step).tanh()
        difference_BDhw = (rounded_BDhw + added_BDhw / 2).atanh() - (rounded_BDhw - added_BDhw / 2).atanh()
    torch.testing.assert_close(gradient_BDhw, difference_BDhw / (2 * step), rtol=1e-6, atol=1e-9)


def test_the_gradient_fades_far_outside() -> None:
    latents_BDhw = torch.tensor([0.0, 3.0, 20.0]).view(1, 1, 1, 3).requires_grad_()
    FSQ([5])(latents_BDhw).latents.sum().backward()
    assert latents_BDhw.grad is not None
    near, far, out = latents_BDhw.grad.flatten().tolist()
    assert near == pytest.approx(1.0)
    assert 0 < far < 0.05
    assert out == pytest.approx(0.0, abs=1e-12)


def test_what_is_infinite_or_no_number_gets_a_code_too() -> None:
    latents_BDhw = torch.tensor([math.inf, -math.inf, math.nan]).view(1, 1, 1, 3)
    codes = FSQ([7])(latents_BDhw).codes.flatten()
    assert codes[:2].tolist() == [6, 0]
    assert 0 <= codes[2] < 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"needs the quantizer_option levels, a list of integers ≥ 2, such as \[8, 5, 5, 5\]"),
        ({"quantizer_options": {"levels": [8, 1]}}, r"expects levels to be a list of integers ≥ 2, .*; got \[8, 1\]"),
        ({"quantizer_options": {"levels": "8,5"}}, "expects levels to be a list of integers ≥ 2, .*; got '8,5'"),
        ({"quantizer_options": {"levels": [8, True]}}, r"integers ≥ 2, .*; got \[8, True\]"),
        (
            {"quantizer_options": {"lewels": [8]}},
            r"has no quantizer_option 'lewels', only levels\. Did you mean 'levels'\?$",
        ),
        (
            {"quantizer_options": {"levels": [8, 5, 5, 5]}, "num_embeddings": 8192, "embed_dim": 4},
            r"the levels \[8, 5, 5, 5\] make 1000 codes and num_embeddings is 8192; expected the same number",
        ),
        (
            {"quantizer_options": {"levels": [8, 5]}, "num_embeddings": 40, "embed_dim": 256},
            "there are levels for 2 channels and embed_dim is 256; expected the same number",
        ),
    ],
)
def test_wrong_configurations_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(ChameleonVQVAEConfig(quantizer="fsq", **fields))
