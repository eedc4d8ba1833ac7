"""Segments of codecs: whatever the logits are, a row writes what their grammars let come, and each in its room."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_core import Engine, GenerationOptions, Request
from chameleon_core.errors import BrokenPluginError, ConfigError, GenerationError
from chameleon_core.generation.processors import processor_chain
from chameleon_core.generation.rows import Row, start_row
from chameleon_core.model import ChameleonForConditionalGeneration
from chameleon_core.testing import make_config, make_model, make_vocabulary

NAMES = ("<tune>", "</tune>", *(f"<note{number}>" for number in range(6)), "<glad>", "<sad>")
VOCABULARY = make_vocabulary(size=54, more_specials=NAMES)
TUNE, END, *NOTES, GLAD, SAD = (VOCABULARY[name] for name in NAMES)
CONTEXT = 80
LEAST = 4
"""The ids of the shortest tune: its begin, two notes and its end."""


@dataclass(frozen=True)
class OpenTune:
    """Two notes at least, each unlike the one before it, then the end."""

    last: int | None = None
    count: int = 0
    ids_left: int | None = None

    @property
    def next_ids(self) -> tuple[int, ...]:
        notes = tuple(note for note in NOTES if note != self.last)
        if self.count < 2:
            return notes
        return (END,) if self.ids_left == 1 else (*notes, END)

    @property
    def least_ids_left(self) -> int:
        return max(1, 3 - self.count)

    def accept(self, token_id: int) -> OpenTune | None:
        left = None if self.ids_left is None else self.ids_left - 1
        return None if token_id == END else OpenTune(token_id, self.count + 1, left)


class TuneGrammar:
    begin_ids = (TUNE,)
    ids = frozenset((TUNE, END, *NOTES))

    def open(self, begin_id: int, room: int | None) -> OpenTune:
        return OpenTune(ids_left=room)


class MoodGrammar:
    """One id, of two."""

    begin_ids = (GLAD, SAD)
    ids = frozenset(begin_ids)

    def open(self, begin_id: int, room: int | None) -> None:
        return None


GRAMMARS = {"tune": TuneGrammar(), "mood": MoodGrammar()}


def model_with(grammars: Any = GRAMMARS, *, seed: int = 0) -> ChameleonForConditionalGeneration:
    config = make_config(vocabulary_map=VOCABULARY, vocab_size=len(VOCABULARY), max_position_embeddings=CONTEXT)
    model = make_model(config, seed=seed)
    model.attach_tokenizer(SimpleNamespace(token_ids=VOCABULARY), grammars)  # type: ignore[arg-type]
    return model


MODEL = model_with()
LAYOUT = MODEL.layout
WORD = int(LAYOUT.text_allowed_V.nonzero()[0, 0])


def written(prompt: Sequence[int] = (WORD,), *, model: Any = MODEL, **options: Any) -> list[int]:
    return model.generate(torch.tensor([list(prompt)]), **options)[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def parts(ids: Sequence[int]) -> list[str]:
    """Return what the ids are, one after the other, read by hand. Fails where a segment isn't whole."""
    found, place = [], 0
    while place < len(ids):
        if ids[place] == TUNE:
            end = list(ids).index(END, place)
            notes = ids[place + 1 : end]
            assert len(notes) >= 2
            assert set(notes) <= set(NOTES)
            assert all(one != other for one, other in itertools.pairwise(notes))
            found.append("tune")
            place = end + 1
        elif ids[place] == LAYOUT.begin_image_id:
            assert LAYOUT.picture_ids.issuperset(ids[place + 1 : place + 5])
            assert ids[place + 5] == LAYOUT.end_image_id
            found.append("image")
            place += 6
        elif ids[place] in (GLAD, SAD):
            found.append("mood")
            place += 1
        else:
            assert LAYOUT.text_allowed_V[ids[place]] or (ids[place] == LAYOUT.eos_id and place + 1 == len(ids))
            found.append("text")
            place += 1
    return found


@settings(max_examples=60)
@given(
    st.sampled_from(["text", "image", "tune", "mood", "interleaved", "interleaved"]),
    st.integers(0, 2**32),
    st.none() | st.integers(6, 30),
    st.sampled_from([0.1, 1.0, 1000.0]),
    st.sampled_from(["plain", "jacobi", "lookup"]),
)
def test_whatever_the_logits_only_what_grammars_let_come_is_written_and_whole(
    modality: str, seed: int, limit: int | None, temperature: float, decoding: str
) -> None:
    options = {"modality": modality, "do_sample": True, "seed": seed, "temperature": temperature}
    ids = written(max_new_tokens=limit, decoding=decoding, **options)
    assert len(ids) <= (CONTEXT - 1 if limit is None else limit)
    found = parts(ids)
    if modality == "text":
        assert set(found) <= {"text"}
    elif modality != "interleaved":
        assert found == [modality]


def test_interleaved_rows_hold_every_kind() -> None:
    rows = [
        written(modality="interleaved", do_sample=True, temperature=1000.0, seed=seed, max_new_tokens=40)
        for seed in range(12)
    ]
    assert {part for row in rows for part in parts(row)} == {"text", "image", "tune", "mood"}


def test_requests_of_every_kind_write_beside_each_other_what_they_write_alone() -> None:
    requests = [
        Request(
            prompt=[WORD], options=GenerationOptions(modality=modality, do_sample=True, seed=seed, **more), index=seed
        )
        for seed, modality in enumerate(["tune", "interleaved", "image", "mood", "text", "tune", "interleaved"])
        for more in ({"max_new_tokens": 9}, {"guidance_text": 3.0})
    ]

    def ids_of(batch: Sequence[Request]) -> list[list[int]]:
        engine = Engine(MODEL, max_rows=5)
        handles = [engine.submit(request) for request in batch]
        list(engine.run())
        return [handle.new_ids for handle in handles]

    assert ids_of(requests) == [ids for request in requests for ids in ids_of([request])]


def test_a_tune_ends_within_what_the_engine_has_room_for() -> None:
    engine = Engine(MODEL, max_positions=64)
    handle = engine.submit(Request(prompt=[WORD], options=GenerationOptions(modality="tune", forbidden_ids=(END,))))
    list(engine.run())
    assert parts(handle.new_ids) == ["tune"]
    assert len(handle.new_ids) < 64


def test_guidance_leaves_tunes_as_they_are() -> None:
    assert written(modality="tune", guidance_text=5.0) == written(modality="tune")


def row(prompt: Sequence[int] = (WORD,), **changes: Any) -> Row:
    options = GenerationOptions(**{"modality": "interleaved", **changes})
    stop_ids = frozenset({LAYOUT.eos_id, *options.stop_ids})
    return start_row(3, prompt, options, layout=LAYOUT, context_length=CONTEXT, stop_ids=stop_ids)


def test_text_holds_no_id_of_a_codec() -> None:
    special = [TUNE, END, *NOTES, GLAD, SAD]
    assert LAYOUT.special_ids.issuperset(special)
    assert not LAYOUT.text_allowed_V[special].any()
    assert not any(row(modality=modality).may_begin(TUNE) for modality in ("text", "image", "tune"))


def test_a_segment_begins_only_where_the_shortest_fits() -> None:
    started = row(max_new_tokens=LEAST)
    assert [started.may_begin(TUNE, ahead) for ahead in range(2)] == [True, False]
    assert [started.may_begin(GLAD, ahead) for ahead in (LEAST - 1, LEAST)] == [True, False]
    assert row(max_new_tokens=1, stop_ids=(TUNE,)).may_begin(TUNE)


def test_the_states_of_a_row_are_those_of_its_segments() -> None:
    started = row(max_new_tokens=20)
    assert (started.kind, started.kinds) == ("text", ("text", "image", "tune", "mood"))
    started.accept(TUNE)
    assert (started.kind, started.next_ids, started.picture) == ("tune", tuple(NOTES), None)
    for note in NOTES[:2]:
        started.accept(note)
    assert started.next_ids == (NOTES[0], *NOTES[2:], END)
    started.accept(END)
    assert (started.kind, started.segment, started.finish_reason) == ("text", None, None)
    started.accept(SAD)
    assert (started.kind, started.finish_reason, started.images_begun) == ("text", None, 0)


def test_a_row_of_one_segment_is_begun_for_the_model_where_it_has_no_choice() -> None:
    assert (row(modality="tune").forced_id, row(modality="tune").limit) == (TUNE, CONTEXT - 1)
    mood = row(modality="mood")
    assert (mood.forced_id, mood.next_ids, mood.limit) == (None, (GLAD, SAD), 1)
    mood.accept(GLAD)
    assert mood.finish_reason == "stop"


def test_a_prompt_that_ends_inside_a_segment_goes_on_with_it() -> None:
    prompt = [WORD, TUNE, NOTES[3]]
    for modality in ("tune", "interleaved"):
        started = row(prompt, modality=modality, max_new_tokens=2)
        assert (started.kind, started.next_ids) == ("tune", tuple(note for note in NOTES if note != NOTES[3]))
        assert started.segment is not None
        assert started.segment.ids_left == 2
    assert parts([*prompt, *written(prompt, modality="tune")]) == ["text", "tune"]


@pytest.mark.parametrize(
    "prompt",
    [(TUNE, NOTES[0], NOTES[1], END), (TUNE, NOTES[0], WORD), (GLAD,), (TUNE, NOTES[0], GLAD), (NOTES[0], END)],
    ids=["whole", "abandoned", "one id", "another begins", "no begin"],
)
def test_a_prompt_whose_segments_are_over_ends_in_text(prompt: tuple[int, ...]) -> None:
    assert (row(prompt).kind, row(prompt).segment) == ("text", None)
    assert row(prompt, modality="text").finish_reason is None


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (
            (TUNE,),
            {"modality": "text"},
            GenerationError,
            "inside a segment of 'tune'.*use 'tune' or 'interleaved'",
        ),
        ((TUNE,), {"modality": "image"}, GenerationError, "ends inside a segment of 'tune', which modality='image'"),
        ((TUNE, END), {}, GenerationError, "ends inside a segment of 'tune', in which .* 1 ids after its begin"),
        (
            (WORD,),
            {"modality": "tune", "max_new_tokens": 3},
            GenerationError,
            "segment of 'tune' needs 4 more.* is 3",
        ),
        ((TUNE, NOTES[0]), {"modality": "tune", "max_new_tokens": 1}, GenerationError, "needs 2 more ids.* is 1"),
        ((WORD,), {"modality": "tunes"}, ConfigError, "modality is 'tunes', .*'tune', 'mood'. Did you mean 'tune'?"),
        ((WORD,), {"modality": "imge"}, ConfigError, "Did you mean 'image'?"),
    ],
    ids=["text", "another kind", "an id too early", "no room", "no room inside", "no such codec", "misspelt"],
)
def test_what_cant_be_written_is_refused(
    prompt: tuple[int, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        row(prompt, **options)
    with pytest.raises(error, match=message):
        written(prompt, **{"modality": "interleaved", **options})


def test_processors_and_samplers_are_those_of_the_kind() -> None:
    options = GenerationOptions(
        modality="tune", repetition_penalty=2.0, do_sample=True, temperature=0.5, image_temperature=2.0, top_k=3,
        logits_processors=({"name": "min-p", "p": 0.1},),
    )  # fmt: skip
    names = [type(link.processor).__name__ for link in processor_chain(options, "tune").links]
    assert names == ["MinP", "Temperature", "TopK"]
    assert parts(written(options=options)) == ["tune"]


def test_an_id_that_is_forbidden_comes_only_where_nothing_else_may() -> None:
    ids = written(modality="tune", forbidden_ids=(*NOTES[:4], END), max_new_tokens=11)
    assert set(ids[1:-1]) <= set(NOTES[4:])
    assert (len(ids), ids[-1]) == (11, END)


class Failing(TuneGrammar):
    def open(self, begin_id: int, room: int | None) -> Any:
        def accept(token_id: int) -> Any:
            raise BrokenPluginError("the segment codec 'tune' failed: not today.")

        return SimpleNamespace(next_ids=tuple(NOTES), least_ids_left=1, ids_left=None, accept=accept)


def test_a_grammar_that_fails_ends_its_own_request() -> None:
    engine = Engine(model_with({"tune": Failing()}))
    bad = engine.submit(Request(prompt=[WORD], options=GenerationOptions(modality="tune")))
    good = engine.submit(Request(prompt=[WORD], options=GenerationOptions(max_new_tokens=4)))
    list(engine.run())
    assert (bad.finish_reason, good.finish_reason) == ("error", "length")
    assert "not today" in str(bad.error)
