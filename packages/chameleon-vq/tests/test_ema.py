"""The codebook of moving averages: by the conformance suite, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chameleon_vq import ChameleonVQVAEConfig, Codebook, ConfigError
from chameleon_vq.quantizers.ema import EMACodebook
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance


class TestEMACodebook(VectorQuantizerConformance):
    name = "ema"


def grid(*points: tuple[float, float]) -> Tensor:
    """Points as latents [1, 2, 1, len(points)]."""
    return torch.tensor(points).T.reshape(1, 2, 1, -1)


@pytest.fixture
def corners() -> EMACodebook:
    """Two entries that one latent each has chosen so far, with averages that keep half of that per step."""
    codebook = EMACodebook(2, 2, decay=0.5, smoothing=1e-12)
    codebook.restart(torch.tensor([0, 1]), torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    return codebook


def test_entries_become_the_moving_average_of_what_chose_them(corners: EMACodebook) -> None:
    quantized = corners(grid((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (4.0, 2.0)))
    assert quantized.codes.tolist() == [[[0, 0, 0, 1]]]
    # Chosen with the old entries.
    assert torch.equal(quantized.latents, grid((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (4.0, 4.0)))
    # Counts: 0.5·1 + 0.5·3 = 2 and 1. Sums: 0.5·0 + 0.5·2 = 1, and 0.5·(4, 4) + 0.5·(4, 2) = (4, 3).
    torch.testing.assert_close(corners.count_N, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(corners.sum_ND, torch.tensor([[1.0, 1.0], [4.0, 3.0]]))
    torch.testing.assert_close(corners.embedding.weight, torch.tensor([[0.5, 0.5], [4.0, 3.0]]))


def test_an_entry_that_nothing_chooses_stays_where_it_is(corners: EMACodebook) -> None:
    for _ in range(100):
        corners(grid((0.0, 0.0)))
    assert corners.count_N[1] < 1e-12
    torch.testing.assert_close(corners.embedding.weight[0], torch.zeros(2))
    assert torch.isfinite(corners.embedding.weight).all()


def test_the_loss_is_the_commitment_alone(corners: EMACodebook) -> None:
    latents_BDhw = grid((0.3, 0.4)).requires_grad_()
    loss = corners(latents_BDhw).loss
    assert loss.item() == pytest.approx(0.125)
    loss.backward()
    torch.testing.assert_close(latents_BDhw.grad, grid((0.3, 0.4)))
    assert not any(parameter.requires_grad for parameter in corners.parameters())


def test_the_loss_s_gradient_is_its_slope() -> None:
    """Against finite differences in float64; entries are updated only in training mode."""
    torch.manual_seed(0)
    codebook = EMACodebook(7, 3, initializer_range=1.0).double().eval()
    latents_BDhw = torch.randn(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda latents_BDhw: codebook(latents_BDhw).loss, latents_BDhw)


def test_the_entries_serve_in_the_plain_codebook(corners: EMACodebook) -> None:
    corners(grid((1.0, 0.0), (4.0, 2.0)))
    plain = Codebook(2, 2)
    plain.load_state_dict({"embedding.weight": corners.state_dict()["embedding.weight"]})
    latents_BDhw = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(plain(latents_BDhw).codes, corners.eval()(latents_BDhw).codes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoy": 0.9}, r"'ema' has no quantizer_option 'decoy', only decay, smoothing\. Did you mean 'decay'\?$"),
        ({"decay": 1.0}, r"'ema' expects decay to be a number > 0 and < 1; got 1\.0\.$"),
        ({"smoothing": "little"}, "'ema' expects smoothing to be a number > 0 and < 1; got 'little'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(ChameleonVQVAEConfig(quantizer="ema", quantizer_options=options))


def test_options_reach_the_quantizer() -> None:
    quantizer = make_quantizer(ChameleonVQVAEConfig(quantizer="ema", quantizer_options={"decay": 0.8}))
    assert isinstance(quantizer, EMACodebook)
    assert quantizer.decay == 0.8
