"""Residual quantization: by the conformance suite, by hand, and against a search in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from chameleon_vq import ChameleonVQVAEConfig, Codebook, ConfigError
from chameleon_vq.quantizers.ema import EMACodebook
from chameleon_vq.quantizers.residual import ResidualCodebooks
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance

Slope = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]

SUMS = {"test_codes_to_latents_to_codes": "a sum of entries may lie nearer to another first entry than to its own"}


class TestResidualOfMovingAverages(VectorQuantizerConformance):
    name = "residual"
    config_fields = {"quantizer_options": {"num_quantizers": 3, "decay": 0.9}}
    not_applicable = SUMS


class TestResidualByGradientWithDropout(VectorQuantizerConformance):
    name = "residual"
    config_fields = {"quantizer_options": {"num_quantizers": 4, "update": "gradient", "quantizer_dropout": 0.5}}
    not_applicable = SUMS


def level(*entries: tuple[float, ...], kind: type[Codebook] = Codebook) -> Codebook:
    """A codebook of these entries."""
    codebook = kind(len(entries), len(entries[0]))
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.tensor(entries))
    return codebook


def grid(*points: tuple[float, ...]) -> Tensor:
    """Points as latents [1, D, 1, len(points)]."""
    return torch.tensor(points).T.reshape(1, len(points[0]), 1, -1)


def test_each_level_quantizes_what_those_before_it_left() -> None:
    quantizer = ResidualCodebooks([level((0.0, 0.0), (10.0, 0.0)), level((1.0, 1.0), (-1.0, 0.0))])
    quantized = quantizer(grid((9.0, 0.5), (0.5, 2.0)))
    # (9, 0.5) − (10, 0) = (−1, 0.5), nearest to (−1, 0); (0.5, 2) − (0, 0) is nearest to (1, 1).
    assert quantized.codes.tolist() == [[[[1, 1], [0, 0]]]]
    assert torch.equal(quantized.latents, grid((9.0, 0.0), (1.0, 1.0)))
    assert quantized.usage.tolist() == [2, 2]
    # The first level is off by (−1, 0.5) and (0.5, 2), the second by (0, 0.5) and (−0.5, 1); half of it for two levels,
    # at a weight of 1 + 0.25.
    errors = (1 + 0.25 + 0.25 + 4) / 4 + (0 + 0.25 + 0.25 + 1) / 4
    assert quantized.loss.item() == pytest.approx(1.25 * errors / 2)


def greedy(latent_D: npt.NDArray[np.float64], books_QZD: npt.NDArray[np.float64]) -> list[int]:
    """Algorithm 1 of the paper, position by position."""
    codes = []
    for book_ZD in books_QZD:
        code = min(range(len(book_ZD)), key=lambda code: float(((latent_D - book_ZD[code]) ** 2).sum()))
        latent_D = latent_D - book_ZD[code]
        codes.append(code)
    return codes


def test_codes_are_those_of_the_published_algorithm() -> None:
    torch.manual_seed(0)
    quantizer = ResidualCodebooks([Codebook(8, 3, initializer_range=1.0) for _ in range(4)])
    latents_BDhw = torch.randn(2, 3, 4, 5)
    codes_BhwQ = quantizer(latents_BDhw).codes
    books_QZD = np.stack([level.embedding.weight.detach().double().numpy() for level in quantizer.levels])
    for (b, h, w), latent_D in (
        (place, latents_BDhw[place[0], :, place[1], place[2]].double().numpy())
        for place in itertools.product(range(2), range(4), range(5))
    ):
        assert codes_BhwQ[b, h, w].tolist() == greedy(latent_D, books_QZD)


def test_codes_come_back_where_later_levels_are_shorter_than_half_the_way_to_another_entry() -> None:
    first = level((0.0, 0.0), (8.0, 0.0), (0.0, 8.0))
    second = level((0.0, 0.0), (1.0, 1.0), (-1.0, 1.0))
    quantizer = ResidualCodebooks([first, second])
    every_pair = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(1, 3, 3, 2)
    assert torch.equal(quantizer(quantizer.lookup(every_pair)).codes, every_pair)


def test_a_sum_may_lie_nearer_to_another_first_entry_than_to_its_own() -> None:
    """The reason that the contract doesn't promise it: not even the codes chosen for a latent come back."""
    quantizer = ResidualCodebooks([level((0.0,), (1.0,)), level((0.0,), (0.6,))])
    quantized = quantizer(grid((0.45,)))
    assert quantized.codes.flatten().tolist() == [0, 1]
    assert quantized.latents.item() == pytest.approx(0.6)
    assert quantizer(quantized.latents).codes.flatten().tolist() == [1, 0]


def test_the_loss_s_gradient_is_its_slope(slope: Slope) -> None:
    """Against finite differences in float64 of the terms that the gradient isn't stopped in."""
    torch.manual_seed(0)
    quantizer = ResidualCodebooks([Codebook(5, 3, beta=0.3, initializer_range=1.0) for _ in range(3)]).double()
    latents_BDhw = torch.randn(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    quantized = quantizer(latents_BDhw)
    books = [level.embedding.weight for level in quantizer.levels]
    gradient_BDhw, *gradients_ZD = torch.autograd.grad(quantized.loss, [latents_BDhw, *books])

    def residuals(latents_BDhw: Tensor, upto: int) -> Tensor:
        return latents_BDhw - sum(
            torch.nn.functional.embedding(quantized.codes[..., q], books[q].detach()).movedim(-1, 1)
            for q in range(upto)
        )

    def commitment(latents_BDhw: Tensor) -> Tensor:
        return sum((residuals(latents_BDhw, q + 1) ** 2).mean() for q in range(3)) / 3  # type: ignore[return-value]

    def pull(q: int, book_ZD: Tensor) -> Tensor:
        entries_BDhw = torch.nn.functional.embedding(quantized.codes[..., q], book_ZD).movedim(-1, 1)
        return 0.3 * ((entries_BDhw - residuals(latents_BDhw.detach(), q)) ** 2).mean() / 3

    torch.testing.assert_close(gradient_BDhw, slope(commitment, latents_BDhw), rtol=1e-7, atol=1e-9)
    for q, gradient_ZD in enumerate(gradients_ZD):
        expected_ZD = slope(lambda book_ZD, q=q: pull(q, book_ZD), books[q])  # type: ignore[misc]
        torch.testing.assert_close(gradient_ZD, expected_ZD, rtol=1e-7, atol=1e-9)


def test_each_level_follows_its_own_latents() -> None:
    first = level((0.0, 0.0), (10.0, 0.0), kind=EMACodebook)
    second = level((1.0, 1.0), (-1.0, 0.0), kind=EMACodebook)
    alone = EMACodebook(2, 2)
    alone.load_state_dict(second.state_dict())
    latents_BDhw = grid((9.0, 0.5), (0.5, 2.0), (0.2, 0.1))
    ResidualCodebooks([first, second])(latents_BDhw)
    alone(grid((-1.0, 0.5), (0.5, 2.0), (0.2, 0.1)))
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name])


def test_with_dropout_some_pictures_use_their_first_levels_only() -> None:
    torch.manual_seed(0)
    quantizer = ResidualCodebooks([Codebook(8, 2, initializer_range=1.0) for _ in range(3)], quantizer_dropout=1.0)
    latents_BDhw = torch.randn(200, 2, 1, 1)
    quantized = quantizer(latents_BDhw)
    codes_BhwQ = quantized.codes
    entries = [level.lookup(codes_BhwQ[..., q]) for q, level in enumerate(quantizer.levels)]
    partial_QBDhw = torch.stack(entries).cumsum(dim=0)
    uses_QB = torch.isclose(partial_QBDhw, quantized.latents).flatten(2).all(dim=2)
    assert uses_QB.any(dim=0).all()
    # A third each uses one, two and three levels: 200 · 1/3 ± 4 deviations of √(200 · 1/3 · 2/3).
    assert all(40 <= count <= 93 for count in uses_QB.sum(dim=1).tolist())
    # Codes are what they would have been, so that they can be counted and looked up.
    assert torch.equal(codes_BhwQ, quantizer.eval()(latents_BDhw).codes)
    assert torch.allclose(quantizer(latents_BDhw).latents, partial_QBDhw[-1])


def test_a_level_that_a_picture_does_not_use_learns_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = ResidualCodebooks([EMACodebook(4, 2), EMACodebook(4, 2)])
    monkeypatch.setattr(quantizer, "_depth", lambda latents_BDhw: torch.tensor([1, 2]))
    second = EMACodebook(4, 2)
    second.load_state_dict(quantizer.levels[1].state_dict())
    latents_BDhw = torch.randn(2, 2, 3, 3)
    [_, (_, seen_BDhw)] = list(quantizer.codebooks_for(latents_BDhw))
    expected = second(seen_BDhw[1:])
    quantized = quantizer(latents_BDhw)
    assert torch.equal(quantizer.levels[1].embedding.weight, second.embedding.weight)
    assert torch.equal(quantized.codes[1:, ..., 1], expected.codes)


def test_codebooks_are_given_what_the_ones_before_leave_as_they_are_by_then() -> None:
    quantizer = ResidualCodebooks([level((0.0,), (4.0,)), level((0.0,), (1.0,))])
    latents_BDhw = grid((4.0,), (5.0,))
    seen = []
    for codebook, seen_BDhw in quantizer.codebooks_for(latents_BDhw):
        seen.append(seen_BDhw.flatten().tolist())
        with torch.no_grad():
            codebook.embedding.weight += 0.5
    assert seen == [[4.0, 5.0], [-0.5, 0.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'residual' needs the quantizer_option num_quantizers, an integer ≥ 2, the number of codebooks"),
        ({"num_quantizers": 0}, "expects num_quantizers to be an integer ≥ 2, the number of codebooks; got 0"),
        ({"num_quantizers": 2, "update": "adam"}, "expects update to be 'ema' or 'gradient'; got 'adam'"),
        ({"num_quantizers": 2, "quantizer_dropout": 2}, "expects quantizer_dropout to be a number from 0 to 1; got 2"),
        (
            {"num_quantizers": 2, "update": "gradient", "decay": 0.9},
            "'residual' has the quantizer_option 'decay' only with update='ema'; leave it out",
        ),
        ({"num_quantizers": 2, "decay": 1}, "expects decay to be a number > 0 and < 1; got 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(ChameleonVQVAEConfig(quantizer="residual", quantizer_options=options))


def test_options_reach_the_levels() -> None:
    config = ChameleonVQVAEConfig(num_embeddings=16, embed_dim=4, quantizer="residual", beta=0.5)
    averaged = make_quantizer(config.replace(quantizer_options={"num_quantizers": 2, "decay": 0.8}))
    assert isinstance(averaged, ResidualCodebooks)
    assert [type(level) for level in averaged.levels] == [EMACodebook, EMACodebook]
    assert averaged.levels[1].decay == 0.8  # type: ignore[attr-defined]
    learned = make_quantizer(config.replace(quantizer_options={"num_quantizers": 2, "update": "gradient"}))
    assert isinstance(learned, ResidualCodebooks)
    assert [(type(level), level.beta) for level in learned.levels] == [(Codebook, 0.5), (Codebook, 0.5)]
