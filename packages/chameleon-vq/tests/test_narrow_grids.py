"""Grids that are halved to one column, which some processors' bfloat16 convolutions get wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chameleon_vq import ChameleonVQVAE
from chameleon_vq.blocks import Downsample
from chameleon_vq.testing import make_image_tokenizer

ROUNDING = 2e-2
"""bfloat16 has 8 bits: sums of numbers of about 1 are rounded to 2⁻⁸ of theirs, and again on the way."""


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["channels first", "last"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_narrow_grids_are_halved_in_bfloat16_as_in_float32(width: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    halves = Downsample(8).bfloat16()
    exact = Downsample(8)
    exact.load_state_dict(halves.state_dict())
    for height in (2, 9, 10, 13, 40, 131):
        grid_BChw = torch.randn(2, 8, height, width).bfloat16().contiguous(memory_format=layout)
        expected_BChw = exact(grid_BChw.float())
        for record in (False, True):
            with torch.set_grad_enabled(record):
                found_BChw = halves(grid_BChw)
            assert found_BChw.shape == (2, 8, height // 2, width // 2)
            torch.testing.assert_close(found_BChw.float(), expected_BChw, rtol=ROUNDING, atol=ROUNDING)


def test_the_gradient_of_a_narrow_grid_is_that_of_the_convolution() -> None:
    torch.manual_seed(0)
    halves = Downsample(4).bfloat16()
    grid_BChw = torch.randn(1, 4, 12, 2).bfloat16().requires_grad_()
    halves(grid_BChw).sum().backward()
    exact_BChw = grid_BChw.detach().float().requires_grad_()
    weight, bias = halves.conv.weight.float(), halves.conv.bias.float()
    F.conv2d(F.pad(exact_BChw, (0, 1, 0, 1)), weight, bias, stride=2).sum().backward()
    assert grid_BChw.grad is not None
    torch.testing.assert_close(grid_BChw.grad.float(), exact_BChw.grad, rtol=ROUNDING, atol=ROUNDING)


def test_a_picture_of_one_column_of_codes_has_the_same_latents_in_bfloat16() -> None:
    model = make_image_tokenizer().model
    half = ChameleonVQVAE(model.config).eval().bfloat16()
    half.load_state_dict(model.state_dict())
    stride = model.config.stride
    torch.manual_seed(0)
    pixels_BCHW = torch.rand(1, model.config.in_channels, 12 * stride, stride) * 2 - 1
    with torch.no_grad():
        expected, found = model.encode(pixels_BCHW), half.encode(pixels_BCHW.bfloat16())
    largest = expected.latents_BDhw.abs().max()
    # The roundings of all layers together.
    assert (found.latents_BDhw.float() - expected.latents_BDhw).abs().max() < 0.1 * largest
