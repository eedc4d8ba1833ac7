"""The quantizer ``codebook``: by the conformance suite and by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from chameleon_vq import ChameleonVQVAEConfig, Codebook, ConfigError
from chameleon_vq.quantizers import codebook as codebook_module
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance

Slope = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


class TestCodebook(VectorQuantizerConformance):
    name = "codebook"


@pytest.fixture
def corners() -> Codebook:
    """Four entries: the corners of the unit square, counted in binary."""
    codebook = Codebook(4, 2)
    codebook.load_state_dict({"embedding.weight": torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])})
    return codebook


def grid(*points: tuple[float, float]) -> Tensor:
    """Points as latents [1, 2, 1, len(points)]."""
    return torch.tensor(points).T.reshape(1, 2, 1, -1)


def test_each_point_goes_to_its_nearest_corner(corners: Codebook) -> None:
    quantized = corners(grid((0.1, 0.2), (0.4, 0.9), (0.8, 0.1), (3.0, 3.0)))
    assert quantized.codes.tolist() == [[[0, 1, 2, 3]]]
    assert torch.equal(quantized.latents, grid((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)))
    assert quantized.usage.tolist() == [1, 1, 1, 1]


def test_of_equally_near_entries_the_first_is_taken(corners: Codebook) -> None:
    assert corners(grid((0.5, 0.5), (1.0, 0.5), (0.5, 1.0))).codes.tolist() == [[[0, 2, 1]]]


def test_the_loss_is_the_mean_square_and_a_quarter_of_it(corners: Codebook) -> None:
    # One point, off by 0.3 and 0.4: the mean of the squares is 0.125, and it counts 1 + 0.25 times.
    assert corners(grid((0.3, 0.4))).loss.item() == pytest.approx(1.25 * 0.125)


def test_the_latents_pull_at_full_weight_and_the_codebook_at_beta(corners: Codebook) -> None:
    latents_BDhw = grid((0.3, 0.4)).requires_grad_()
    corners(latents_BDhw).loss.backward()
    # d/dz of the mean over two values of (z - e)² is z - e.
    torch.testing.assert_close(latents_BDhw.grad, grid((0.3, 0.4)))
    gradient = corners.embedding.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[0], torch.tensor([-0.3, -0.4]) * 0.25)
    assert not gradient[1:].any()


def test_the_loss_s_gradient_is_its_slope(slope: Slope) -> None:
    """Against finite differences in float64 of the two terms, in each of which one side is constant."""
    torch.manual_seed(0)
    codebook = Codebook(7, 3, beta=0.3, initializer_range=1.0).double()
    weight_ZD = codebook.embedding.weight
    latents_BDhw = torch.randn(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    quantized = codebook(latents_BDhw)
    gradients = torch.autograd.grad(quantized.loss, [latents_BDhw, weight_ZD])

    def commitment(latents_BDhw: Tensor) -> Tensor:
        return (codebook.lookup(quantized.codes).detach() - latents_BDhw).square().mean()

    def pull(weight_ZD: Tensor) -> Tensor:
        entries_BDhw = torch.nn.functional.embedding(quantized.codes, weight_ZD).movedim(-1, 1)
        return 0.3 * (entries_BDhw - latents_BDhw.detach()).square().mean()

    torch.testing.assert_close(gradients[0], slope(commitment, latents_BDhw), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradients[1], slope(pull, weight_ZD), rtol=1e-7, atol=1e-9)
    assert quantized.loss.item() == pytest.approx((commitment(latents_BDhw) + pull(weight_ZD)).item())


def test_lookup_puts_the_width_before_the_grid(corners: Codebook) -> None:
    assert torch.equal(corners.lookup(torch.tensor([[[2, 1]]])), grid((1.0, 0.0), (0.0, 1.0)))


def test_codes_do_not_depend_on_how_many_positions_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    codebook = Codebook(50, 6)
    latents_BDhw = torch.randn(2, 6, 9, 7)
    whole = codebook(latents_BDhw).codes
    monkeypatch.setattr(codebook_module, "CHUNK", 10)
    assert torch.equal(codebook(latents_BDhw).codes, whole)


def test_in_bfloat16_distances_are_still_float32() -> None:
    torch.manual_seed(0)
    codebook = Codebook(512, 16).to(torch.bfloat16)
    codes = torch.arange(512).view(1, 32, 16)
    assert torch.equal(codebook(codebook.lookup(codes)).codes, codes)


def test_the_codebook_has_no_options() -> None:
    with pytest.raises(ConfigError, match="'codebook' has no quantizer_options; got 'levels'"):
        make_quantizer(ChameleonVQVAEConfig(quantizer_options={"levels": 3}))
