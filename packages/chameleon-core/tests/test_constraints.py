"""What the options forbid doesn't come, in text and in pictures, greedy and sampled, alone and in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chameleon_core import GenerationError, GenerationOptions, UnknownPluginError
from chameleon_core.generation import RowView
from chameleon_core.generation.processors.repetition import RepetitionPenalty
from chameleon_core.testing import make_model, make_scripted_model, pad_rows

MODEL = make_model()
LAYOUT = MODEL.layout
WORDS = LAYOUT.text_allowed_V.nonzero()[:, 0].tolist()
PROMPTS = [[0, WORDS[3], WORDS[4]], [0, WORDS[5]], [0, *WORDS[:6]]]

each_way = pytest.mark.parametrize(
    "way", [{}, {"do_sample": True, "seed": 3}, {"do_sample": True, "top_p": 0.8, "seed": 4}], ids=str
)


def new_ids(model: Any = MODEL, prompts: list[list[int]] = PROMPTS, **options: Any) -> list[list[int]]:
    """The ids that each row has after its prompt, without padding."""
    input_ids, mask = pad_rows(prompts)
    output = model.generate(input_ids, mask, **options)[:, input_ids.shape[1] :].tolist()
    return [[each for each in row if each != LAYOUT.pad_id] for row in output]


@each_way
def test_forbidden_ids_never_come(way: dict[str, Any]) -> None:
    free = new_ids(max_new_tokens=40, **way)
    forbidden = tuple({each for row in free for each in row[:3]} - {LAYOUT.eos_id})
    held = new_ids(max_new_tokens=40, forbidden_ids=forbidden, **way)
    assert not set(forbidden) & {each for row in held for each in row}
    assert (
        held
        == [row for prompt in PROMPTS for row in new_ids(prompts=[prompt], max_new_tokens=40, forbidden_ids=forbidden)]
        or way
    )


@each_way
def test_forbidden_codes_are_never_drawn(way: dict[str, Any]) -> None:
    (free,) = new_ids(prompts=PROMPTS[:1], modality="image", **way)
    forbidden = tuple(set(free) & LAYOUT.picture_ids)
    (held,) = new_ids(prompts=PROMPTS[:1], modality="image", forbidden_ids=forbidden, **way)
    assert len(held) == len(free) == LAYOUT.tokens_per_image + 2
    assert set(held[1:-1]) <= LAYOUT.picture_ids - set(forbidden)


def test_what_a_picture_must_have_comes_in_any_case() -> None:
    (ids,) = new_ids(prompts=PROMPTS[:1], modality="image", forbidden_ids=(LAYOUT.begin_image_id, LAYOUT.end_image_id))
    assert (ids[0], ids[-1]) == (LAYOUT.begin_image_id, LAYOUT.end_image_id)


def test_forbidding_its_beginning_forbids_pictures() -> None:
    model = make_scripted_model({WORDS[0]: LAYOUT.begin_image_id, LAYOUT.end_image_id: LAYOUT.eos_id})
    options = {"prompts": [[0, WORDS[0]]], "modality": "interleaved", "max_new_tokens": 12}
    assert new_ids(model, **options)[0][0] == LAYOUT.begin_image_id
    assert LAYOUT.begin_image_id not in new_ids(model, **options, forbidden_ids=(LAYOUT.begin_image_id,))[0]


@each_way
def test_no_ngram_comes_twice(way: dict[str, Any]) -> None:
    for size in (1, 2):
        rows = new_ids(max_new_tokens=25, no_repeat_ngram_size=size, **way)
        for prompt, row in zip(PROMPTS, rows, strict=True):
            ids = [*prompt, *row]
            ngrams = [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]
            assert len(set(ngrams)) == len(ngrams)


def test_a_sequence_is_not_completed() -> None:
    cycle = dict(zip(WORDS[:3], [*WORDS[1:3], WORDS[0]], strict=True))
    model = make_scripted_model(cycle)
    prompts = [[0, WORDS[0]]]
    assert new_ids(model, prompts, max_new_tokens=4) == [[WORDS[1], WORDS[2], WORDS[0], WORDS[1]]]
    (ids,) = new_ids(model, prompts, max_new_tokens=4, forbidden_sequences=((WORDS[1], WORDS[2]),))
    assert ids[0] == WORDS[1]
    assert ids[1] != WORDS[2]


def test_a_row_does_not_end_before_its_least_number_of_ids() -> None:
    model = make_scripted_model({WORDS[0]: LAYOUT.eos_id, WORDS[1]: WORDS[1]})
    prompts = [[0, WORDS[0]], [0, WORDS[1]]]
    assert new_ids(model, prompts, max_new_tokens=9)[0] == [LAYOUT.eos_id]
    for least in (1, 5, 9):
        rows = new_ids(model, prompts, max_new_tokens=9, min_new_tokens=least)
        assert LAYOUT.eos_id not in rows[0][:least]
        assert len(rows[0]) >= least
        assert rows[1] == [WORDS[1]] * 9


def test_processors_of_plugins_run_for_text_and_for_codes() -> None:
    """One that is built in stands in for a plugin's."""
    first = {"name": "top-k", "k": 1}
    sampled = new_ids(max_new_tokens=20, do_sample=True, seed=0, logits_processors=(first,))
    assert sampled == new_ids(max_new_tokens=20)
    drawn = new_ids(modality="image", do_sample=True, seed=0, logits_processors=(first,))
    assert drawn == new_ids(modality="image")
    assert drawn != new_ids(modality="image", do_sample=True, seed=0)


def test_a_processor_of_text_is_not_started_for_a_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RepetitionPenalty, row: RowView) -> None:
        raise GenerationError("started")

    monkeypatch.setattr(RepetitionPenalty, "start", refuse)
    assert new_ids(modality="image", repetition_penalty=2.0) == new_ids(modality="image")
    with pytest.raises(GenerationError, match="started"):
        new_ids(modality="interleaved", repetition_penalty=2.0, max_new_tokens=8)


def test_an_unknown_processor_is_an_error_before_the_first_step() -> None:
    with pytest.raises(UnknownPluginError, match=r"no logits processor named 'topk'.* Did you mean 'top-k'"):
        MODEL.stream_ids(torch.tensor(PROMPTS[:1]), options=GenerationOptions(logits_processors=("topk",)))


def test_where_nothing_may_come_the_processor_is_named() -> None:
    with pytest.raises(GenerationError, match=r"'forbidden-ids' of chameleon-core .* forbids every id"):
        new_ids(forbidden_ids=tuple(range(MODEL.config.vocab_size)), max_new_tokens=3)
