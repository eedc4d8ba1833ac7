"""Large grids are computed in bands of rows: with the results of the modules, and only where that is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, bands
from chameleon_vq.blocks import Downsample, GroupNorm, ResnetBlock, Upsample, conv3x3, convolved_swish

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 6e-2}
"""The absolute error allowed of values up to about 5: sums of products in another order, and for bfloat16 the rounding
of each step, 2⁻⁹ of it."""


class OutputLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = GroupNorm(32), conv3x3(32, 3)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        return convolved_swish(hidden_BChw, self.norm, self.conv)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "a block": lambda: ResnetBlock(32, 32, dropout=0.5),
    "a block that widens": lambda: ResnetBlock(32, 64, dropout=0.0),
    "half the grid": lambda: Downsample(32),
    "twice the grid": lambda: Upsample(32),
    "the output": OutputLayer,
}


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND", 2**11)


def made(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer.to(dtype)


def grid(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    hidden_BChw = torch.randn(2, 32, height, width, generator=torch.Generator().manual_seed(1)) * 2 + 1
    return hidden_BChw.to(dtype, memory_format=torch.channels_last)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("size", [(7, 9), (8, 16), (2, 64), (33, 20), (12, 5)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_bands_give_what_the_modules_give(name: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    layer, hidden_BChw = made(name), grid(*size, dtype)
    before = hidden_BChw.clone()
    with torch.enable_grad():
        expected = layer.to(torch.float64)(hidden_BChw.double()).detach()
    layer.to(dtype)
    with torch.no_grad():
        assert bands.has_bands(hidden_BChw)
        found = layer(hidden_BChw)
    assert found.dtype == dtype
    assert torch.equal(hidden_BChw, before)
    scale = max(1.0, float(expected.abs().max()) / 5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCES[dtype] * scale)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("size", [(7, 9), (8, 16), (2, 64), (33, 20), (12, 5)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_bands_of_contiguous_grids_give_the_modules_own_numbers(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, hidden_BChw = made(name), grid(*size).contiguous()
    before = hidden_BChw.clone()
    with torch.no_grad():
        assert bands.has_bands(hidden_BChw)
        found = layer(hidden_BChw)
        monkeypatch.setattr(bands, "BAND", 2**40)
        assert not bands.has_bands(hidden_BChw)
        expected = layer(hidden_BChw)
    assert torch.equal(hidden_BChw, before)
    assert found.is_contiguous()
    # Other kernels may convolve such small bands than whole grids: a rounding of the largest values.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", [ResnetBlock(128, 128, dropout=0.0), Downsample(128)], ids=["a block", "half"])
def test_bands_of_contiguous_grids_round_as_the_modules_do(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """At realistic sizes the numbers are the same bit for bit, so they aren't two samples of the rounding error."""
    torch.manual_seed(0)
    layer.apply(lambda each: nn.init.normal_(each.weight, std=0.05) if isinstance(each, nn.Conv2d) else None)
    hidden_BChw = torch.randn(1, 128, 64, 64) + 1
    results = []
    for band in (2**19, 2**40):
        monkeypatch.setattr(bands, "BAND", band)
        with torch.no_grad():
            assert bands.has_bands(hidden_BChw) is (band == 2**19)
            results.append(layer.to(torch.float32)(hidden_BChw).double())
    with torch.no_grad():
        exact_BChw = layer.to(torch.float64)(hidden_BChw.double())
    found, expected = results
    assert 0 < (expected - exact_BChw).norm() < 1e-6 * exact_BChw.norm()
    assert (found - expected).norm() < (expected - exact_BChw).norm() / 4


@pytest.mark.usefixtures("small_bands")
def test_only_float32_has_bands_of_contiguous_grids() -> None:
    hidden_BChw = grid(19, 16).contiguous()
    with torch.no_grad():
        assert bands.has_bands(hidden_BChw, GroupNorm(32))
        assert not bands.has_bands(hidden_BChw.bfloat16())
        assert bands.has_bands(grid(19, 16, torch.bfloat16))


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("name", LAYERS)
def test_a_picture_in_bands_does_not_depend_on_its_company(name: str) -> None:
    layer, hidden_BChw = made(name), grid(19, 16)
    with torch.no_grad():
        assert torch.equal(layer(hidden_BChw)[1:], layer(hidden_BChw[1:]))


@pytest.mark.usefixtures("small_bands")
def test_what_hooks_into_a_layer_is_given_all_of_it() -> None:
    seen: list[tuple[int, ...]] = []
    layer, hidden_BChw = made("a block"), grid(19, 16)
    with torch.no_grad():
        expected = layer(hidden_BChw)
        layer.conv1.register_forward_hook(lambda _, arguments, output: seen.append(tuple(output.shape)))  # type: ignore[union-attr]
        found = layer(hidden_BChw)
    assert seen == [(2, 32, 19, 16)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("small_bands")
def test_layers_that_were_changed_are_computed_whole() -> None:
    hidden_BChw = grid(19, 16)
    conv, norm = conv3x3(32, 32), GroupNorm(32)
    with torch.no_grad():
        assert bands.has_bands(hidden_BChw, norm, conv, nn.Dropout(0.5).eval())
        assert not bands.has_bands(hidden_BChw, norm, conv, nn.Dropout(0.5).train())
        assert not bands.has_bands(hidden_BChw, nn.Sequential(conv))
        assert not bands.has_bands(hidden_BChw, nn.Conv2d(32, 32, 3, padding=1, groups=2))
        assert not bands.has_bands(hidden_BChw, conv.bfloat16())
        assert not bands.has_bands(hidden_BChw.transpose(2, 3), norm)
        assert not bands.has_bands(hidden_BChw.double(), norm.double())
    assert not bands.has_bands(hidden_BChw, GroupNorm(32))


@pytest.mark.usefixtures("small_bands")
def test_a_model_in_bands_gives_the_same_latents_codes_and_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = ChameleonVQVAEConfig(
        resolution=32, base_channels=32, channel_multiplier=(1, 2), num_res_blocks=1, latent_channels=8, embed_dim=8,
        num_embeddings=64,
    )  # fmt: skip
    model = ChameleonVQVAE(config).eval()
    pixels_BCHW = torch.rand(2, 3, 32, 48) * 2 - 1
    expected = model(pixels_BCHW)  # gradients are recorded, so nothing is in bands
    with torch.no_grad():
        found = model(pixels_BCHW.contiguous(memory_format=torch.channels_last))
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.encoding.latents_BDhw, expected.encoding.latents_BDhw, **close)
    torch.testing.assert_close(found.pixels_BCHW, expected.pixels_BCHW, **close)
    assert found.pixels_BCHW.is_contiguous()


@pytest.mark.usefixtures("small_bands")
def test_gradients_are_recorded_as_before() -> None:
    layer, hidden_BChw = made("a block"), grid(19, 16).requires_grad_()
    layer(hidden_BChw).sum().backward()
    assert hidden_BChw.grad is not None
    assert all(parameter.grad is not None for parameter in layer.parameters())
