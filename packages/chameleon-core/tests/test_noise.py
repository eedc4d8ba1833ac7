"""Noise by position: its values never change, and it is as random as its law says.

Every seed is fixed, so that a test that passes always passes. Bounds are quantiles of 1 in 10,000 and rarer.

Shapes: R rows, A ids, P pairs of numbers.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chameleon_core.generation.noise import (
    _ROUGH,
    _noise_of,
    _rough_noise_of,
    argmax_with_noise,
    gumbel_noise,
    noise_key,
)
from chameleon_core.generation.sampling import choose, choose_sampled

IDS = torch.arange(2048)
COUNT = 64
"""How many neighbouring keys are compared."""


def keys(axis: str, count: int = COUNT) -> Tensor:
    """Keys that differ in one number, which takes neighbouring values."""
    at = {"seed": 5, "row": 3, "position": 700}
    return torch.tensor([noise_key(**{**at, axis: at[axis] + step}) for step in range(count)])


def uniform(noise: Tensor) -> Tensor:
    """The uniform numbers that Gumbel noise was made from, by its distribution function."""
    return (-(-noise.double()).exp()).exp()


def chi_square(counts: Tensor, expected: Tensor | float) -> float:
    """The statistic as a multiple of standard deviations from its mean."""
    degrees = counts.numel() - 1
    return float(((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ((0, 0, 0), 2558736989570252433),
        ((1, 2, 3), 2869315087210772132),
        ((2**64, 0, 0), 7542512935913773580),
        ((10**30, 5, 4096), -4004023811791536260),
    ],
)
def test_keys_never_change(numbers: tuple[int, int, int], key: int) -> None:
    assert noise_key(*numbers) == key


def test_noise_never_changes() -> None:
    noise_RA = gumbel_noise(torch.tensor([noise_key(0, 0, 0), noise_key(1, 2, 3)]), torch.tensor([0, 1, 2, 65535]))
    assert noise_RA.dtype == torch.float32
    assert [[round(each, 4) for each in row] for row in noise_RA.tolist()] == [
        [0.4023, -0.7144, -1.0977, -0.1782],
        [2.197, 0.2465, 0.2552, 0.6964],
    ]


def test_the_generator_is_splitmix64() -> None:
    """The published first outputs for the state 1234567, which id 0 is one step behind."""
    step, outputs = 0x9E3779B97F4A7C15, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key = 1234567 + step
    noise_RA = gumbel_noise(torch.tensor([key - 2**64]), torch.arange(3))
    expected = [-math.log(-math.log((output // 2**12 + 0.5) / 2**52)) for output in outputs]
    torch.testing.assert_close(noise_RA, torch.tensor([expected]))


def test_each_number_is_a_function_of_its_key_and_id_alone() -> None:
    keys_R, ids_A = keys("row"), torch.randperm(65536, generator=torch.Generator().manual_seed(0))
    noise_RA = gumbel_noise(keys_R, ids_A)
    order_R = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gumbel_noise(keys_R[order_R], ids_A[:100]), noise_RA[order_R, :100])
    assert torch.equal(gumbel_noise(keys_R[7:8], torch.arange(65536)), noise_RA[7:8, ids_A.argsort()])
    assert gumbel_noise(keys_R[:0], ids_A).shape == (0, 65536)
    assert gumbel_noise(keys_R, ids_A[:0]).shape == (COUNT, 0)


def test_noise_is_finite_at_both_ends() -> None:
    """The smallest and the largest of the uniform numbers."""
    smallest, largest = 2.0**-53, 1 - 2.0**-53
    noise_RA = gumbel_noise(keys("seed"), torch.arange(65536))
    assert noise_RA.isfinite().all()
    assert -math.log(-math.log(smallest)) < noise_RA.min() < -2.6
    assert 13 < noise_RA.max() < -math.log(-math.log(largest))


@pytest.mark.parametrize("axis", ["seed", "row", "position"])
def test_numbers_are_uniform(axis: str) -> None:
    uniform_RA = uniform(gumbel_noise(keys(axis), IDS))
    counts = torch.histc(uniform_RA, bins=1024, min=0, max=1)
    assert chi_square(counts, uniform_RA.numel() / 1024) < 4
    # The Kolmogorov-Smirnov statistic; 2.2 is exceeded once in 8,000 times.
    sorted_P = uniform_RA.flatten().sort().values
    steps_P = torch.arange(1, len(sorted_P) + 1, dtype=torch.float64) / len(sorted_P)
    assert float((sorted_P - steps_P).abs().max()) * math.sqrt(len(sorted_P)) < 2.2
    # Each key by itself, and each id.
    for counts in (uniform_RA.mean(dim=1), uniform_RA.mean(dim=0)):
        assert float((counts - 0.5).abs().max()) < 5 / math.sqrt(12 * uniform_RA.numel() / len(counts))


@pytest.mark.parametrize("axis", ["seed", "row", "position", "id"])
def test_neighbours_are_independent(axis: str) -> None:
    uniform_RA = uniform(gumbel_noise(keys("seed" if axis == "id" else axis), IDS))
    for distance in (1, 2, 16):
        if axis == "id":
            first, second = uniform_RA[:, :-distance].flatten(), uniform_RA[:, distance:].flatten()
        else:
            first, second = uniform_RA[:-distance].flatten(), uniform_RA[distance:].flatten()
        correlation = float(torch.corrcoef(torch.stack((first, second)))[0, 1])
        assert abs(correlation) < 4.5 / math.sqrt(len(first))
        buckets = (first * 32).long() * 32 + (second * 32).long()
        counts = torch.bincount(buckets, minlength=1024).double()
        assert chi_square(counts, len(first) / 1024) < 4.5


def test_each_bit_of_a_position_changes_half_of_the_bits_of_the_key() -> None:
    for axis in ("seed", "row", "position"):
        changed = [
            (noise_key(**{**at, axis: at[axis] ^ 1 << bit}) ^ noise_key(**at)) % 2**64
            for at in ({"seed": 9 * step, "row": step % 7, "position": 31 * step} for step in range(100))
            for bit in range(12)
        ]
        mean = sum(each.bit_count() for each in changed) / len(changed)
        assert abs(mean - 32) < 5 * 4 / math.sqrt(len(changed))
        assert min(each.bit_count() for each in changed) > 10


def test_no_two_keys_are_equal() -> None:
    found = {noise_key(seed, row, position) for seed in range(20) for row in range(20) for position in range(200)}
    assert len(found) == 20 * 20 * 200


def test_the_likeliest_with_noise_is_a_sample_of_the_softmax() -> None:
    """Over the positions of one row, the rows at one position, and the seeds."""
    logits_A = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0, -math.inf])
    expected_A = logits_A.double().softmax(dim=-1)
    ids_A = torch.tensor([40000, 3, 2, 65535, 0, 77, 8])
    for axis in ("position", "row", "seed"):
        choices_R = choose(logits_A.expand(20000, -1), gumbel_noise(keys(axis, 20000), ids_A))
        counts_A = torch.bincount(choices_R, minlength=len(ids_A)).double()
        assert counts_A[-1] == 0
        assert chi_square(counts_A[:-1], 20000 * expected_A[:-1]) < 4


def test_without_noise_the_first_of_the_likeliest_is_chosen() -> None:
    assert choose(torch.tensor([[0.0, 2.0, 2.0], [3.0, -1.0, 3.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("forbidden", [0.0, 0.3, 0.95, 1.0], ids=lambda share: f"{share:.0%} forbidden")
def test_noise_for_what_may_be_chosen_alone_gives_the_same_choice(forbidden: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_RA = torch.randn(5, 1000, generator=generator)
    logits_RA[torch.rand(5, 1000, generator=generator) < forbidden] = -math.inf
    logits_RA[:, 500] = 0.0
    ids_A = torch.randperm(65536, generator=generator)[:1000]
    keys_R = keys("row", 5)
    assert torch.equal(choose_sampled(logits_RA, ids_A, keys_R), choose(logits_RA, gumbel_noise(keys_R, ids_A)))


@pytest.mark.parametrize("forbidden", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0, 100.0, 1e6])
def test_the_likeliest_of_many_is_the_same_without_most_of_the_noise(scale: float, forbidden: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_RA = scale * torch.randn(3, 9000, generator=generator) + 50
    logits_RA[torch.rand(3, 9000, generator=generator) < forbidden] = -math.inf
    keys_R = torch.tensor([noise_key(1, row, 2) for row in range(3)])
    ids_A = torch.arange(9000) + 5
    expected_R = choose(logits_RA, gumbel_noise(keys_R, ids_A))
    assert torch.equal(argmax_with_noise(logits_RA, keys_R, ids_A), expected_R)


def test_rough_noise_is_nowhere_much_lower_than_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    anywhere = torch.randint(0, 2**52, (200_000,), generator=generator)
    near_the_ends = (2 ** torch.linspace(0, 52, 200_000, dtype=torch.float64)).long().clamp(max=2**52) - 1
    bits = torch.cat((anywhere, near_the_ends, 2**52 - 1 - near_the_ends))
    rough = _rough_noise_of(bits)
    assert rough.isfinite().all()
    assert (_noise_of(bits.clone()) - rough).max() < _ROUGH / 2
