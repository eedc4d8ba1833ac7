"""Sampling: probabilities by hand, and frequencies of many choices.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core.errors import ConfigError
from chameleon_core.generation import GenerationOptions, ProcessorChain, RowView, processor_chain
from chameleon_core.generation.noise import gumbel_noise, noise_key
from chameleon_core.generation.processors import truncation
from chameleon_core.generation.sampling import choose, choose_sampled

# The 99.9 % quantile of chi-square with 3 degrees of freedom; seeds are fixed, so a test that passes always passes.
CHI_SQUARE_3 = 16.27


def logits_of(*probabilities: float) -> Tensor:
    """Logits [1, A] of these probabilities, shifted: a constant on all logits changes nothing."""
    return torch.tensor([probabilities]).log() + 7


def chain_of(**options: Any) -> tuple[ProcessorChain, Any]:
    """The processors of text and the state of a row that has none of the ids."""
    asked = GenerationOptions(do_sample=True, **options)
    chain = processor_chain(asked, "text")
    return chain, chain.start(RowView(prompt=(99,), options=asked, layout=None, tokenizer=None, kind="text"))


def processed(logits_RA: Tensor, **options: Any) -> Tensor:
    chain, state = chain_of(**options)
    return chain.process(logits_RA, torch.arange(logits_RA.shape[1]), [state] * len(logits_RA))


def kept(options: dict[str, Any], *probabilities: float) -> list[float]:
    return [round(p, 5) for p in processed(logits_of(*probabilities), **options).softmax(dim=-1)[0].tolist()]


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({}, (0.5, 0.3, 0.2), [0.5, 0.3, 0.2]),
        # Probabilities to the power of 1 / temperature: 16 : 4 : 1 of 21, and 2 : √2 : 1.
        ({"temperature": 0.5}, (4 / 7, 2 / 7, 1 / 7), [0.7619, 0.19048, 0.04762]),
        ({"temperature": 2.0}, (4 / 7, 2 / 7, 1 / 7), [0.45308, 0.32038, 0.22654]),
        ({"temperature": 1e-6}, (0.5, 0.3, 0.2), [1.0, 0.0, 0.0]),
        ({"temperature": 1e6}, (0.5, 0.3, 0.2), [0.33333, 0.33333, 0.33333]),
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
    assert kept(options, *given) == expected


def test_forbidden_choices_have_no_probability() -> None:
    logits_RA = logits_of(0.5, 0.3, 0.2)
    logits_RA[0, 0] = -math.inf
    torch.testing.assert_close(processed(logits_RA).softmax(dim=-1), torch.tensor([[0.0, 0.6, 0.4]]))
    assert processed(logits_RA, top_k=3)[0, 0] == -math.inf


def test_rows_are_cut_each_by_itself() -> None:
    logits_RA = torch.cat((logits_of(0.9, 0.05, 0.05), logits_of(0.3, 0.25, 0.45)))
    assert (processed(logits_RA, top_p=0.5) > -math.inf).sum(dim=-1).tolist() == [1, 2]


def test_half_precision_logits_are_processed_in_float32() -> None:
    assert processed(logits_of(0.5, 0.5).bfloat16(), top_p=0.9).dtype == torch.float32


def keys(count: int, seed: int = 0) -> Tensor:
    return torch.tensor([noise_key(seed, 0, position) for position in range(count)])


def test_without_noise_the_likeliest_is_taken() -> None:
    logits_RA = torch.cat((logits_of(0.2, 0.5, 0.3), logits_of(0.6, 0.1, 0.3)))
    assert choose(logits_RA).tolist() == [1, 0]


@pytest.mark.parametrize("choices", [3, 8191, 8192, 8200, 65536])
def test_of_any_number_of_choices_the_first_likeliest_is_taken(choices: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits_RA = torch.randn(3, choices, generator=generator)
        places = [sorted(torch.randint(choices, (2,), generator=generator).tolist()) for _ in range(3)]
        for row, pair in enumerate(places):
            logits_RA[row, pair] = 9.0
        assert choose(logits_RA).tolist() == [pair[0] for pair in places]


@pytest.mark.parametrize("lowest", [-1e30, 0.0])
def test_a_choice_is_found_among_forbidden_ones(lowest: float) -> None:
    logits_RA = torch.full((1, 65536), -torch.inf)
    logits_RA[0, 40000] = lowest
    assert choose(logits_RA).tolist() == [40000]
    assert choose_sampled(logits_RA, torch.arange(65536), keys(1)).tolist() == [40000]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.95, "min_p": 0.05}], ids=str)
def test_frequencies_are_the_probabilities(options: dict[str, Any]) -> None:
    logits_RA = processed(logits_of(0.4, 0.3, 0.2, 0.1), **options)
    expected_A = logits_RA.softmax(dim=-1)[0].double()
    count = 4000
    chosen_R = choose_sampled(logits_RA.expand(count, -1), torch.arange(4), keys(count))
    counts_A = torch.bincount(chosen_R, minlength=4).double()
    possible_A = expected_A > 0
    assert not counts_A[~possible_A].any()
    deviations_A = (counts_A - count * expected_A)[possible_A] ** 2 / (count * expected_A[possible_A])
    assert float(deviations_A.sum()) < CHI_SQUARE_3


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"min_p": 0.9}], ids=str)
def test_noise_is_left_out_only_where_it_changes_nothing(options: dict[str, Any]) -> None:
    ids_A = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    logits_RA = processed(torch.randn(20, 500, generator=torch.Generator().manual_seed(2)), **options)
    expected = choose(logits_RA, gumbel_noise(keys(20), ids_A))
    assert torch.equal(choose_sampled(logits_RA, ids_A, keys(20)), expected)


def test_pictures_take_the_texts_values_unless_they_have_their_own() -> None:
    options = GenerationOptions(do_sample=True, temperature=0.5, top_k=7, top_p=0.8, min_p=0.1, image_top_p=0.6)
    same = GenerationOptions(do_sample=True, temperature=0.5, top_k=7, top_p=0.6, min_p=0.1)
    assert processor_chain(options, "image") is processor_chain(same, "text")
    own = options.replace(image_temperature=2.0, image_top_k=3, image_min_p=0.0)
    same = GenerationOptions(do_sample=True, temperature=2.0, top_k=3, top_p=0.6)
    assert processor_chain(own, "image") is processor_chain(same, "text")


def test_greedy_options_truncate_nothing() -> None:
    options = GenerationOptions(temperature=0.5, top_p=0.9)
    for kind in ("text", "image"):
        assert processor_chain(options, kind) is processor_chain(GenerationOptions(), kind)  # type: ignore[arg-type]


def test_published_options_are_the_papers() -> None:
    options = GenerationOptions.published(seed=3)
    assert (options.do_sample, options.temperature, options.top_k, options.top_p) == (True, 0.7, None, 0.9)
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
        ("modality", 3),
        ("guidance_text", math.nan),
        ("guidance_image", math.inf),
        ("temperature", math.inf),
    ],
)
def test_impossible_options_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"GenerationOptions.{field}"):
        GenerationOptions(**{field: value})


@pytest.mark.parametrize("has_numpy", [True, False], ids=["numpy", "no numpy"])
def test_top_p_keeps_the_same_ids_whatever_their_number(has_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_numpy:
        monkeypatch.setattr(truncation, "_has_numpy", lambda: False)
    # Rows whose nuclei have a few ids, some ten, some hundred and some thousand, in one call.
    scales_R1 = torch.tensor([[8.0], [4.5], [2.5], [0.1], [2.5]])
    logits_RA = scales_R1 * torch.randn(5, 5000, generator=torch.Generator().manual_seed(0))
    probabilities_RA = logits_RA.softmax(dim=-1)
    ordered_RA = probabilities_RA.sort(dim=-1, descending=True).values
    count_R1 = (ordered_RA.cumsum(dim=-1) < 0.9).sum(dim=-1, keepdim=True)
    sizes = [1 + int(count) for count in count_R1]
    assert all(size > looked_at for size, looked_at in zip(sizes[1:4], truncation.LOOKED_AT, strict=True))
    kept_RA = probabilities_RA >= ordered_RA.gather(-1, count_R1)
    processed_RA = truncation.TopP(0.9).process(logits_RA, torch.arange(5000), [None] * 5)
    assert torch.equal(processed_RA, logits_RA.masked_fill(~kept_RA, -math.inf))


def test_truncation_passes_the_gradients_of_what_it_keeps() -> None:
    logits_RA = logits_of(0.2, 0.5, 0.3).requires_grad_()
    truncation.TopP(0.6).process(logits_RA, torch.arange(3), [None])[0, 1:].sum().backward()
    assert torch.equal(logits_RA.grad, torch.tensor([[0.0, 1.0, 1.0]]))
