"""Rows on an engine that knows requests alone write what the toolkit's engine writes, whatever falls out of step."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from model_engine import ROOMY, ModelEngine

from chameleon_core import (
    ChameleonCoreError,
    ContextLengthError,
    Engine,
    GenerationOptions,
    Request,
    Step,
    TokenLayout,
)
from chameleon_core.generation import RowMachine, start_machine
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.testing import make_config, make_model, make_scripted_model, make_vocabulary
from chameleon_vllm.admission import Limits
from chameleon_vllm.chameleon import VLLMChameleon
from chameleon_vllm.errors import EngineError
from chameleon_vllm.following import Following
from chameleon_vllm.row_parts import Signals
from chameleon_vllm.runner import MAX_FAILURES, MAX_TRIES, Runner

LAYOUT = TokenLayout.from_config(make_config())
# After the word 41 comes a picture, and after a picture words that lead to the next.
MODEL = make_scripted_model({41: LAYOUT.begin_image_id, LAYOUT.end_image_id: 43, 42: 43, 43: 41})
SIGNALS = Signals.of(LAYOUT)
CODES = LAYOUT.code_to_id_Z.tolist()
PROMPT = (0, 40, 41, 42)
WITH_PICTURE = (0, 40, LAYOUT.begin_image_id, *CODES[:4], LAYOUT.end_image_id, 42)
SAMPLED = {"do_sample": True, "seed": 5, "temperature": 1.5, "top_k": 20, "image_top_k": 9}
GUIDED = {"guidance_text": 3.0, "guidance_image": 1.2}
CASES: list[dict[str, Any]] = [
    {"max_new_tokens": 12, "repetition_penalty": 1.2, **SAMPLED},
    {"max_new_tokens": 9, "guidance_scale": 2.0, **SAMPLED},
    {"modality": "image"},
    {"modality": "image", **GUIDED},
    {"modality": "image", "negative_prompt_ids": (44, 45), **GUIDED, **SAMPLED},
    {"modality": "image", "fixed_codes": (3, None, 5, None), **GUIDED},
    {"modality": "interleaved", "max_new_tokens": 40, **SAMPLED},
    {"modality": "interleaved", "max_new_tokens": 40, **GUIDED},
    {"modality": "interleaved", "max_new_tokens": 40, **GUIDED, **SAMPLED},
]


def requests(prompts: Sequence[Sequence[int]] = (PROMPT, WITH_PICTURE)) -> list[Request]:
    return [
        Request(prompt=prompt, options=GenerationOptions(**case), index=index)
        for index, (prompt, case) in enumerate((prompt, case) for prompt in prompts for case in CASES)
    ]


def machines(asked: Sequence[Request]) -> list[RowMachine]:
    return [start_machine(request, MODEL.config, layout=LAYOUT) for request in asked]


def expected(asked: Sequence[Request]) -> list[tuple[list[int], str | None]]:
    engine = Engine(MODEL)
    handles = [engine.submit(request) for request in asked]
    list(engine.run())
    return [(handle.new_ids, handle.finish_reason) for handle in handles]


def run(engine: ModelEngine, rows: Sequence[RowMachine]) -> Runner:
    runner = Runner(engine, SIGNALS)
    for _ in runner.run(rows, lambda: False):
        pass
    return runner


def written(rows: Sequence[RowMachine]) -> list[tuple[list[int], str | None]]:
    return [(list(row.new_ids), row.finish_reason) for row in rows]


ALL = requests()
EXPECTED = expected(ALL)


def test_the_cases_have_pictures_inside_of_documents() -> None:
    documents = [ids for ids, _ in EXPECTED if len(ids) == 40]
    assert documents
    assert all(ids.count(LAYOUT.begin_image_id) > 1 for ids in documents)


@pytest.mark.parametrize("max_requests", [64, 16, 3])
def test_rows_write_what_the_engine_of_chameleon_core_writes(max_requests: int) -> None:
    engine = ModelEngine(MODEL, Limits(max_requests=max_requests, max_step_ids=10_000, max_positions=100_000))
    rows = machines(ALL)
    run(engine, rows)
    assert written(rows) == EXPECTED
    assert engine.most <= max_requests
    assert engine.requests == {}


def test_64_guided_pictures_on_16_places_are_all_guided_and_none_is_lost() -> None:
    asked = [
        Request(
            prompt=(0, 40 + index % 20), options=GenerationOptions(modality="image", **GUIDED, **SAMPLED), index=index
        )
        for index in range(64)
    ]
    engine = ModelEngine(MODEL, Limits(max_requests=16, max_step_ids=64, max_positions=400, block_size=4))
    rows = machines(asked)
    run(engine, rows)
    assert written(rows) == expected(asked)
    assert engine.added == 128  # two contexts each, and no retry


@pytest.mark.parametrize("step_ids", [150, 300])
def test_prompts_of_a_group_are_computed_in_one_step(step_ids: int) -> None:
    """Few ids in a step let few groups start in one; what is written doesn't depend on it."""
    engine = ModelEngine(MODEL, Limits(max_requests=64, max_step_ids=step_ids, max_positions=100_000))
    rows = machines(ALL)
    runner = run(engine, rows)
    assert written(rows) == EXPECTED
    assert runner.splits == 0


HICCUPS: dict[str, Callable[[int, str], bool]] = {
    "the row itself": lambda step, name: name.endswith("-0") and step % 5 == 2,
    "a branch": lambda step, name: name.endswith("-1") and step % 3 == 1,
    "each in turn": lambda step, name: (step + int(name.partition("-")[0])) % 9 == int(name.rpartition("-")[2]),
    "all": lambda step, name: step % 2 == 0,
}


@pytest.mark.parametrize("who", HICCUPS)
def test_a_group_that_falls_out_of_step_is_retried_and_writes_the_same(who: str) -> None:
    engine = ModelEngine(MODEL, ROOMY, skips=HICCUPS[who])
    rows = machines(ALL)
    runner = run(engine, rows)
    assert written(rows) == EXPECTED
    assert runner.splits > 0 or who == "all"
    assert engine.requests == {}
    assert not runner._running
    assert not runner._waiting


def test_a_group_that_is_never_in_step_is_an_error_and_the_others_go_on() -> None:
    engine = ModelEngine(MODEL, ROOMY, skips=lambda step, name: name.endswith("-1"))
    runner = Runner(engine, SIGNALS)
    asked = [ALL[0], ALL[3]]
    text, picture = (runner.submit(row) for row in machines(asked))
    for _ in range(100):
        runner.step()
    assert isinstance(picture.error, EngineError)
    assert f"out of step {MAX_TRIES} times" in str(picture.error)
    assert (text.machine.new_ids, text.machine.finish_reason) == EXPECTED[0]


def test_the_error_of_a_row_is_raised_and_the_engine_is_left_empty() -> None:
    engine = ModelEngine(MODEL, ROOMY, skips=lambda step, name: name.endswith("-1"))
    runner = Runner(engine, SIGNALS)
    with pytest.raises(EngineError, match="out of step"):
        list(runner.run(machines([ALL[3], ALL[7]]), lambda: False))
    assert engine.requests == {}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_requests": 1}, "2 requests at once, and the engine has room for 1. Raise max_num_seqs"),
        ({"max_step_ids": 6}, "7 ids in one step, and the engine has room for 6. Raise max_num_batched_tokens"),
        ({"max_positions": 16}, "positions, and the engine has room for 16"),
    ],
    ids=["requests", "ids", "positions"],
)
def test_a_row_that_never_fits_is_refused_with_the_numbers(limits: dict[str, int], message: str) -> None:
    room = {"max_requests": 64, "max_step_ids": 1000, "max_positions": 1000, **limits}
    runner = Runner(ModelEngine(MODEL, Limits(**room)), SIGNALS)
    with pytest.raises(ContextLengthError, match=message):
        runner.submit(machines([ALL[3]])[0])


def test_a_document_whose_pictures_would_never_fit_is_refused_before_it_begins() -> None:
    runner = Runner(ModelEngine(MODEL, Limits(max_requests=2, max_step_ids=1000, max_positions=1000)), SIGNALS)
    with pytest.raises(ContextLengthError, match="guided, takes 3 requests at once"):
        runner.submit(machines([ALL[7]])[0])


def ids_of(steps: Iterable[Step], row: int = 0) -> list[int]:
    return [step.ids[row] for step in steps if step.ids[row] is not None]


def test_two_streams_share_an_engine_and_each_gets_its_own() -> None:
    runner = Runner(ModelEngine(MODEL), SIGNALS)
    one, other = (runner.run(machines([ALL[number]]), lambda: False) for number in (3, 7))
    first = [next(one), next(one), next(one)]
    assert ids_of(other) == EXPECTED[7][0]
    assert ids_of(first) + ids_of(one) == EXPECTED[3][0]


def test_steps_have_every_id_but_those_that_are_given_and_end_with_the_reason() -> None:
    steps = list(Runner(ModelEngine(MODEL), SIGNALS).run(machines(ALL), lambda: False))
    for row, (ids, reason) in enumerate(EXPECTED):
        assert ids_of(steps, row) == ids
        last = max(number for number, step in enumerate(steps) if step.ids[row] is not None)
        assert steps[last].finish_reasons[row] == reason
        assert not any(step.finish_reasons[row] for step in steps[:last])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_row_goes_on_after_what_it_has_written(count: int) -> None:
    ids, _ = EXPECTED[3]
    request = dataclasses.replace(ALL[3], written=tuple(ids[:count]))
    steps = Runner(ModelEngine(MODEL), SIGNALS).run(machines([request]), lambda: False, given=[count])
    assert ids_of(steps) == ids[count:]


def test_a_stream_that_is_closed_or_stopped_leaves_the_engine() -> None:
    engine = ModelEngine(MODEL)
    runner = Runner(engine, SIGNALS)
    rows = machines([ALL[7]])
    stream = runner.run(rows, lambda: False)
    next(stream)
    stream.close()
    assert engine.requests == {}
    assert rows[0].finish_reason == "cancelled"
    (row,) = machines([ALL[0]])
    assert len(list(runner.run([row], lambda: len(row.new_ids) == 3))) == 3


LUMINA_NAMES = make_vocabulary(more_specials=[reserved(8799 + number) for number in range(6)])
LUMINA = make_model(
    make_config(
        vocab_size=len(LUMINA_NAMES),
        vocabulary_map=LUMINA_NAMES,
        vq_config={"resolution": 8, "channel_multiplier": [1, 1]},
        picture_grammar={"name": "lumina", "max_codes": 32},
        max_position_embeddings=96,
    )
)


@pytest.mark.parametrize(
    "options",
    [{}, {"image_size": (8, 16)}, {"temperature": 5.0, **GUIDED}, {"modality": "interleaved", "max_new_tokens": 60}],
    ids=["its own sizes", "a size", "guided", "documents"],
)
def test_pictures_of_several_sizes_are_written_by_their_grammar(options: dict[str, Any]) -> None:
    changes = {"modality": "image", **SAMPLED, **options}
    asked = [Request(prompt=(0, 40), options=GenerationOptions(**changes), index=index) for index in range(4)]
    engine = Engine(LUMINA)
    handles = [engine.submit(request) for request in asked]
    list(engine.run())
    rows = [start_machine(request, LUMINA.config, layout=LUMINA.layout) for request in asked]
    list(Runner(ModelEngine(LUMINA), Signals.of(LUMINA.layout)).run(rows, lambda: False))
    assert written(rows) == [(handle.new_ids, handle.finish_reason) for handle in handles]


NOTE_NAMES = ("<tune>", "</tune>", "<note1>", "<note2>")
NOTES_VOCABULARY = make_vocabulary(more_specials=NOTE_NAMES)
TUNE, TUNE_END, *NOTES = (NOTES_VOCABULARY[name] for name in NOTE_NAMES)


@dataclasses.dataclass(frozen=True)
class OpenTune:
    """Two notes, then the end."""

    count: int = 0
    ids_left: int | None = None

    @property
    def next_ids(self) -> tuple[int, ...]:
        return tuple(NOTES) if self.count < 2 else (TUNE_END,)

    @property
    def least_ids_left(self) -> int:
        return 3 - self.count

    def accept(self, token_id: int) -> OpenTune | None:
        return None if token_id == TUNE_END else OpenTune(self.count + 1)


class TuneGrammar:
    begin_ids = (TUNE,)
    ids = frozenset((TUNE, TUNE_END, *NOTES))

    def open(self, begin_id: int, room: int | None) -> OpenTune:
        return OpenTune()


@pytest.mark.parametrize("modality", ["tune", "interleaved"])
def test_segments_of_codecs_are_written_by_their_grammars(modality: Any) -> None:
    model = make_model(make_config(vocab_size=len(NOTES_VOCABULARY), vocabulary_map=NOTES_VOCABULARY))
    tokenizer: Any = SimpleNamespace(token_ids=NOTES_VOCABULARY)
    model.attach_tokenizer(tokenizer, {"tune": TuneGrammar()})
    options = GenerationOptions(modality=modality, max_new_tokens=30, **SAMPLED)
    asked = [Request(prompt=(0, 40), options=options, index=index) for index in range(6)]
    engine = Engine(model)
    handles = [engine.submit(request) for request in asked]
    list(engine.run())
    rows = [start_machine(request, model.config, layout=model.layout) for request in asked]
    list(Runner(ModelEngine(model), Signals.of(model.layout)).run(rows, lambda: False))
    assert written(rows) == [(handle.new_ids, handle.finish_reason) for handle in handles]
    assert any(TUNE in row.new_ids for row in rows)


def test_a_row_whose_time_is_over_ends_with_what_it_has() -> None:
    options = GenerationOptions(max_new_tokens=50, max_time=1e-6)
    (row,) = machines([Request(prompt=PROMPT, options=options)])
    run(ModelEngine(MODEL), [row])
    assert (len(row.new_ids), row.finish_reason) == (1, "timeout")


def test_a_request_that_the_engine_ends_is_an_error() -> None:
    engine = ModelEngine(MODEL)
    engine.batch._chooser.vocab_size = 1  # so that choosing fails
    with pytest.raises(ChameleonCoreError, match="its log says why"):
        run(engine, machines([ALL[0]]))


def test_the_end_of_a_row_comes_with_its_last_id_whoever_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a row looks while another thread's step has ended the row and hasn't handed out its ids."""
    runner = Runner(ModelEngine(MODEL), SIGNALS)
    (row,) = machines([ALL[0]])
    stream = runner.run([row], lambda: False)
    steps = [next(stream)]
    has_ended, was_read = threading.Event(), threading.Event()
    take = Following.take

    def taken_slowly(following: Following, token_id: int) -> list[int]:
        ids = take(following, token_id)
        if following.machine.finish_reason is not None:
            has_ended.set()
            was_read.wait(0.5)  # its reader waits for this thread, or reads nothing
        return ids

    def read() -> None:
        steps.extend(stream)
        was_read.set()

    monkeypatch.setattr(Following, "take", taken_slowly)
    stepping = threading.Thread(target=lambda: [runner.step() for _ in range(len(EXPECTED[0][0]))])
    stepping.start()
    assert has_ended.wait(10)
    reading = threading.Thread(target=read)
    reading.start()
    for thread in (stepping, reading):
        thread.join(10)
    assert ids_of(steps) == EXPECTED[0][0]
    assert [step.finish_reasons[0] for step in steps] == [None] * (len(steps) - 1) + [EXPECTED[0][1]]


def test_a_row_that_ends_without_a_new_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is over while the engine computes an id that the row had to write and knows."""
    runner = Runner(ModelEngine(MODEL), SIGNALS)
    monkeypatch.setattr(Following, "take", lambda following, token_id: [])
    (row,) = machines([dataclasses.replace(ALL[0], options=GenerationOptions(max_time=1e-6), written=(40,))])
    (step,) = runner.run([row], lambda: False, given=[1])
    assert (step.ids, step.finish_reasons) == ((None,), ("timeout",))


def test_failed_steps_are_counted_until_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ModelEngine(MODEL)
    runner = Runner(engine, SIGNALS)
    pipeline = VLLMChameleon.__new__(VLLMChameleon)
    pipeline.runner = runner

    def failing() -> Any:
        raise RuntimeError("the engine is dead")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "step", failing)
        for failures in range(1, MAX_FAILURES + 1):
            assert pipeline.is_alive
            with pytest.raises(EngineError, match="the engine is dead"):
                list(runner.run(machines([ALL[3]]), lambda: False))
            assert runner.failures == failures
    assert not pipeline.is_alive
    assert list(runner.run(machines([ALL[3]]), lambda: False))
    assert pipeline.is_alive


@pytest.mark.parametrize("can_abort", [True, False])
def test_an_engine_that_fails_fails_all_that_run_and_nothing_later(
    monkeypatch: pytest.MonkeyPatch, can_abort: bool
) -> None:
    """The other row must not go on: the engine may have computed an id of it that nobody got."""
    engine = ModelEngine(MODEL)
    runner = Runner(engine, SIGNALS)
    one, other = (runner.run(machines([ALL[number]]), lambda: False) for number in (3, 7))
    for stream in (one, other):
        next(stream)
        next(stream)

    def failing(*_: object) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "step", failing)
        if not can_abort:
            patched.setattr(engine, "abort", failing)
        with pytest.raises(EngineError, match="out of memory"):
            list(one)
    with pytest.raises(EngineError, match="row 7: vLLM's engine failed: RuntimeError: out of memory"):
        list(other)
    engine.requests.clear()  # those that it couldn't forget
    (row,) = machines([ALL[8]])
    list(runner.run([row], lambda: False))
    assert written([row]) == [EXPECTED[8]]


def test_a_request_that_the_engine_refuses_is_its_row_s_error_and_nobody_else_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ModelEngine(MODEL)
    runner = Runner(engine, SIGNALS)
    one, other = (runner.run(machines([ALL[number]]), lambda: False) for number in (3, 4))
    add = engine.add

    def refusing(name: str, ids: Sequence[int], part: Any, **limits: Any) -> None:
        if part.member == 1 and name.startswith("1-"):  # the second row's first stretch, of which one request is there
            raise ValueError("refused")
        add(name, ids, part, **limits)

    monkeypatch.setattr(engine, "add", refusing)
    assert ids_of(one) == EXPECTED[3][0]
    with pytest.raises(ValueError, match="refused"):
        list(other)
    assert engine.requests == {}
