"""The same texts and scores as the beam search of transformers, from the same random weights in double precision.

Both sides add float32 log-probabilities of their own rounding, so scores are compared within ``TOLERANCE``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chameleon_core import GenerationOptions
from chameleon_core.generation import Engine, Request, RequestHandle
from chameleon_core.testing import pad_rows

PairMaker = Callable[..., Any]

EOS, PAD = 2, 1
TOLERANCE = 1e-5
PROMPTS = [[0, 40, 41, 42, 43, 44], [0, 50], [61, 23, 60, 33]]


@pytest.fixture(scope="module")
def pair(make_pair: PairMaker) -> Any:
    made = make_pair()
    return made._replace(ours=made.ours.double(), theirs=made.theirs.double())


def searched(
    pair: Any, prompts: Sequence[Sequence[int]], beam: dict[str, Any], options: dict[str, Any]
) -> list[RequestHandle]:
    engine = Engine(pair.ours)
    chosen = GenerationOptions(decoding={"name": "beam", **beam}, **options)
    handles = [engine.submit(Request(prompt=each, options=chosen)) for each in prompts]
    for _ in engine.run():
        pass
    return handles


def assert_same(
    pair: Any, prompts: Sequence[Sequence[int]], beam: dict[str, Any], options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """All hypotheses are the same on both sides, ids and scores."""
    input_ids, mask = pad_rows(prompts)
    count = beam["num_beams"]
    expected = pair.theirs.generate(
        input_ids=input_ids,
        attention_mask=mask,
        do_sample=False,
        suppress_tokens=sorted(pair.ours.layout.special_ids - {EOS}),
        num_return_sequences=count,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **beam,
        **theirs,
    )
    handles = searched(pair, prompts, beam, options)
    assert all(len(handle.hypotheses) == count for handle in handles)
    found = [each for handle in handles for each in handle.hypotheses]
    for own, ids, score in zip(found, expected.sequences.tolist(), expected.sequences_scores.tolist(), strict=True):
        new = ids[input_ids.shape[1] :]
        assert new[: len(own.ids)] == list(own.ids)
        assert set(new[len(own.ids) :]) <= {PAD}
        assert own.score == pytest.approx(score, rel=TOLERANCE)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_beams", [2, 3, 4, 8])
def test_hypotheses_of_a_batch_of_prompts(pair: Any, num_beams: int, early_stopping: Any) -> None:
    for length_penalty in (1.0, 0.0, -1.0, 2.0):
        beam = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
        stops = (45, 47, 50, 52, 55)
        options = {"max_new_tokens": 16, "stop_ids": stops}
        assert_same(pair, PROMPTS, beam, options, {"max_new_tokens": 16, "eos_token_id": [EOS, *stops]})


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"max_new_tokens": 1}, {"max_new_tokens": 1}),
        ({"max_new_tokens": 40}, {"max_new_tokens": 40}),
        (
            {"max_new_tokens": 12, "min_new_tokens": 6, "stop_ids": (45, 50, 55)},
            {"max_new_tokens": 12, "min_new_tokens": 6, "eos_token_id": [EOS, 45, 50, 55]},
        ),
        (
            {"max_new_tokens": 12, "repetition_penalty": 1.5},
            {"max_new_tokens": 12, "repetition_penalty": 1.5},
        ),
        (
            {"max_new_tokens": 12, "no_repeat_ngram_size": 2},
            {"max_new_tokens": 12, "no_repeat_ngram_size": 2},
        ),
        (
            {"max_new_tokens": 12, "forbidden_ids": (46,), "forbidden_sequences": ((48, 49), (51, 52, 53))},
            {"max_new_tokens": 12, "bad_words_ids": [[46], [48, 49], [51, 52, 53]]},
        ),
    ],
    ids=["one id", "long", "a least length", "repetition penalty", "no pair twice", "forbidden ids"],
)
def test_hypotheses_with_options_that_both_sides_have(
    pair: Any, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    # One row: the peer's penalty counts the padding of a batch as an id of the prompt.
    assert_same(pair, PROMPTS[:1], {"num_beams": 4}, options, theirs)


def test_many_random_searches(pair: Any) -> None:
    chance = random.Random(0)
    for _ in range(25):
        prompts = [[0, *chance.choices(range(40, 64), k=chance.randint(0, 6))] for _ in range(2)]
        stops = tuple(chance.sample(range(40, 64), chance.choice([0, 2, 6])))
        beam = {
            "num_beams": chance.randint(2, 8),
            "length_penalty": chance.choice([0.0, 0.6, 1.0, -1.0, 2.0]),
            "early_stopping": chance.choice([True, False, "never"]),
        }
        new = chance.choice([1, 5, 12, 20])
        options = {"max_new_tokens": new, "stop_ids": stops}
        assert_same(pair, prompts, beam, options, {"max_new_tokens": new, "eos_token_id": [EOS, *stops]})
