"""Sampling: probabilities by hand, and frequencies of many draws.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core.errors import ConfigError
from chameleon_core.generation import GenerationOptions
from chameleon_core.generation.sampling import RowGenerators, Sampling, penalize_repetition, sample

# The 99.9 % quantile of chi-square with 3 degrees of freedom; seeds are fixed, so a test that passes always passes.
CHI_SQUARE_3 = 16.27


def logits_of(*probabilities: float) -> Tensor:
    """Logits [1, V] of these probabilities, shifted: a constant on all logits changes nothing."""
    return torch.tensor([probabilities]).log() + 7


def kept(sampling: Sampling, *probabilities: float) -> list[float]:
    return [round(p, 5) for p in sampling.probabilities(logits_of(*probabilities))[0].tolist()]


class Uniform:
    """In the place of the generators: every row's number is this one."""

    def __init__(self, number: float) -> None:
        self.number = number

    def uniform(self, rows: list[int]) -> Tensor:
        return torch.full((len(rows),), self.number, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({}, (0.5, 0.3, 0.2), [0.5, 0.3, 0.2]),
        # Probabilities to the power of 1 / temperature: 16 : 4 : 1 of 21, and 2 : √2 : 1.
        ({"temperature": 0.5}, (4 / 7, 2 / 7, 1 / 7), [0.7619, 0.19048, 0.04762]),
        ({"temperature": 2.0}, (4 / 7, 2 / 7, 1 / 7), [0.45308, 0.32038, 0.22654]),
        ({"temperature": 1e-40}, (0.5, 0.3, 0.2), [1.0, 0.0, 0.0]),
        ({"temperature": 1e30}, (0.5, 0.3, 0.2), [0.33333, 0.33333, 0.33333]),
        ({"top_k": 1}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
        ({"top_k": 2}, (0.2, 0.5, 0.3), [0.0, 0.625, 0.375]),
        ({"top_k": 3}, (0.2, 0.5, 0.3), [0.2, 0.5, 0.3]),
        ({"top_k": 99}, (0.2, 0.5, 0.3), [0.2, 0.5, 0.3]),
        # Equal ones can't be told apart, so both of the second place stay.
        ({"top_k": 2}, (0.5, 0.25, 0.25), [0.5, 0.25, 0.25]),
        # 0.5 holds 0.5; a hair more needs the next one too.
        ({"top_p": 0.4}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
        ({"top_p": 0.6}, (0.2, 0.5, 0.3), [0.0, 0.625, 0.375]),
        ({"top_p": 0.9}, (0.2, 0.5, 0.3), [0.2, 0.5, 0.3]),
        ({"top_p": 1e-9}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
        ({"min_p": 0.5}, (0.2, 0.5, 0.3), [0.0, 0.625, 0.375]),
        ({"min_p": 0.3}, (0.2, 0.5, 0.3), [0.2, 0.5, 0.3]),
        ({"min_p": 0.99}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
        # One after the other: the two that top-k leaves are 0.625 and 0.375, of which top-p takes the first.
        ({"top_k": 2, "top_p": 0.6}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
        # Temperature acts first: at 0.5 the largest holds 25 of 38 and not 0.5.
        ({"temperature": 0.5, "top_p": 0.6}, (0.2, 0.5, 0.3), [0.0, 1.0, 0.0]),
    ],
)
def test_probabilities_by_hand(options: dict[str, Any], given: tuple[float, ...], expected: list[float]) -> None:
    assert kept(Sampling(**options), *given) == expected


def test_forbidden_choices_have_no_probability() -> None:
    logits_RA = logits_of(0.5, 0.3, 0.2)
    logits_RA[0, 0] = -math.inf
    torch.testing.assert_close(Sampling().probabilities(logits_RA), torch.tensor([[0.0, 0.6, 0.4]]))
    assert Sampling(top_k=3).probabilities(logits_RA)[0, 0] == 0


def test_rows_are_cut_each_by_itself() -> None:
    logits_RA = torch.cat((logits_of(0.9, 0.05, 0.05), logits_of(0.3, 0.3, 0.4)))
    assert (Sampling(top_p=0.5).probabilities(logits_RA) > 0).sum(dim=-1).tolist() == [1, 2]


def test_half_precision_logits_give_float32_probabilities() -> None:
    assert Sampling(top_p=0.9).probabilities(logits_of(0.5, 0.5).bfloat16()).dtype == torch.float32


def test_repetition_divides_positive_and_multiplies_negative_logits() -> None:
    logits_RA = torch.tensor([[3.0, -3.0, 3.0, -3.0, 0.0]])
    seen_RA = torch.tensor([[True, True, False, False, True]])
    assert penalize_repetition(logits_RA, seen_RA, 1.5).tolist() == [[2.0, -4.5, 3.0, -3.0, 0.0]]


@pytest.mark.parametrize(
    ("number", "choice"),
    [(0.0, 1), (0.29, 1), (0.31, 3), (0.79, 3), (0.81, 4), (1 - 2**-53, 4)],
)
def test_a_number_picks_the_choice_whose_share_it_falls_in(number: float, choice: int) -> None:
    """Choices without a probability are never picked, not even by 0 or by the largest number below 1."""
    logits_RA = torch.tensor([[0.0, 0.3, 0.0, 0.5, 0.2, 0.0]]).log()
    assert sample(logits_RA, Sampling(), Uniform(number), [0]) == [choice]


def test_the_largest_number_below_1_picks_the_last_choice_of_many() -> None:
    # A cumulative sum over so many choices ends a little beside 1.
    logits_RA = torch.randn(3, 65536, generator=torch.Generator().manual_seed(0))
    logits_RA[:, 60000:] = -math.inf
    assert sample(logits_RA, Sampling(), Uniform(1 - 2**-53), [0, 1, 2]) == [59999] * 3


def test_without_sampling_the_likeliest_is_taken() -> None:
    logits_RA = torch.cat((logits_of(0.2, 0.5, 0.3), logits_of(0.6, 0.1, 0.3)))
    assert sample(logits_RA, None, RowGenerators(0, 2), [0, 1]) == [1, 0]


@pytest.mark.parametrize("choices", [3, 8191, 8192, 8200, 65536])
def test_of_any_number_of_choices_the_first_likeliest_is_taken(choices: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits_RA = torch.randn(3, choices, generator=generator)
        places = [sorted(torch.randint(choices, (2,), generator=generator).tolist()) for _ in range(3)]
        for row, pair in enumerate(places):
            logits_RA[row, pair] = 9.0
        assert sample(logits_RA, None, RowGenerators(0, 3), [0, 1, 2]) == [pair[0] for pair in places]


def test_the_likeliest_is_found_among_forbidden_ones() -> None:
    logits_RA = torch.full((1, 65536), -torch.inf)
    logits_RA[0, 40000] = -1e30
    assert sample(logits_RA, None, RowGenerators(0, 1), [0]) == [40000]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7), Sampling(top_p=0.95, min_p=0.05)], ids=["plain", "cool", "cut"]
)
def test_frequencies_are_the_probabilities(sampling: Sampling) -> None:
    logits_RA = logits_of(0.4, 0.3, 0.2, 0.1)
    expected_V = sampling.probabilities(logits_RA)[0].double()
    generators, draws = RowGenerators(1234, 1), 4000
    counts_V = torch.zeros(4, dtype=torch.float64)
    for _ in range(draws):
        counts_V[sample(logits_RA, sampling, generators, [0])] += 1
    possible = expected_V > 0
    assert not counts_V[~possible].any()
    deviations_V = (counts_V - draws * expected_V)[possible] ** 2 / (draws * expected_V[possible])
    assert float(deviations_V.sum()) < CHI_SQUARE_3


def test_first_numbers_of_many_rows_are_spread_evenly() -> None:
    # Each row is a generator of its own, so their first draws must not follow each other.
    numbers = RowGenerators(0, 4000).uniform(range(4000))
    counts = torch.histc(numbers, bins=4, min=0, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < CHI_SQUARE_3
    correlation = torch.corrcoef(torch.stack((numbers[:-1], numbers[1:])))[0, 1]
    assert abs(float(correlation)) < 0.05


def test_a_rows_numbers_dont_depend_on_the_rest_of_the_batch() -> None:
    together, apart = RowGenerators(5, 3), RowGenerators(5, 3)
    first = together.uniform([0, 1, 2])
    second = together.uniform([2, 0])
    assert apart.uniform([2]).tolist() == first[2:].tolist()
    assert apart.uniform([2]).tolist() == second[:1].tolist()
    assert apart.uniform([0, 1]).tolist() == first[:2].tolist()


def test_seeds_repeat_and_differ() -> None:
    def numbers(seed: int | None) -> list[float]:
        return RowGenerators(seed, 2).uniform([0, 1]).tolist()

    assert numbers(3) == numbers(3)
    assert numbers(3) != numbers(4)
    assert numbers(2**63) != numbers(3)
    assert numbers(3)[0] != numbers(3)[1]


def test_without_a_seed_torchs_own_generator_decides() -> None:
    torch.manual_seed(0)
    first = RowGenerators(None, 1).uniform([0])
    second = RowGenerators(None, 1).uniform([0])
    torch.manual_seed(0)
    assert torch.equal(RowGenerators(None, 1).uniform([0]), first)
    assert not torch.equal(second, first)


def test_pictures_take_the_texts_values_unless_they_have_their_own() -> None:
    options = GenerationOptions(do_sample=True, temperature=0.5, top_k=7, top_p=0.8, min_p=0.1, image_top_p=0.6)
    assert options.text_sampling == Sampling(0.5, 7, 0.8, 0.1)
    assert options.image_sampling == Sampling(0.5, 7, 0.6, 0.1)
    own = options.replace(image_temperature=2.0, image_top_k=3, image_min_p=0.0)
    assert own.image_sampling == Sampling(2.0, 3, 0.6, 0.0)


def test_greedy_options_sample_nothing() -> None:
    options = GenerationOptions(temperature=0.5, top_p=0.9)
    assert options.text_sampling is None
    assert options.image_sampling is None


def test_published_options_are_the_papers() -> None:
    options = GenerationOptions.published(seed=3)
    assert (options.text_sampling, options.image_sampling) == (Sampling(0.7, None, 0.9), Sampling(0.7, None, 0.9))
    assert (options.repetition_penalty, options.guidance_text, options.guidance_image) == (1.2, 3.0, 1.2)
    assert options.seed == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("max_images", -1),
        ("seed", -1),
        ("stop_ids", (-1,)),
        ("stop_strings", ("",)),
        ("modality", "video"),
        ("guidance_text", math.nan),
        ("guidance_image", math.inf),
        ("temperature", math.inf),
    ],
)
def test_impossible_options_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"GenerationOptions.{field}"):
        GenerationOptions(**{field: value})
