"""The engine: requests that come and go give what each would give alone, within the room that there is.

Double precision, so that rounding, which depends on the shapes of a pass, decides nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_core import ContextLengthError, EngineFullError, GenerationError, GenerationOptions
from chameleon_core.generation import Engine, Request, RequestHandle
from chameleon_core.testing import make_model, make_scripted_model

MODEL = make_model().double()
LAYOUT = MODEL.layout
BOS, EOS, BEGIN, END = LAYOUT.bos_id, LAYOUT.eos_id, LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
A, B, C, D = range(40, 44)


def run(engine: Engine[Any], *requests: Request) -> list[list[int]]:
    """Submit requests together and return what each wrote."""
    handles = [engine.submit(request) for request in requests]
    for _ in engine.run():
        pass
    return [handle.new_ids for handle in handles]


def alone(request: Request) -> list[int]:
    (ids,) = run(Engine(MODEL), request)
    return ids


@st.composite
def requests(draw: st.DrawFn, max_prompt: int = 40) -> Request:
    """A request of any modality, greedy or sampled, guided or not."""
    picture = [BEGIN, *CODES[4:8], END]
    prompt = [40 + place * 5 % 24 for place in range(draw(st.integers(1, max_prompt)))]
    prompt[-1] = draw(st.integers(40, 63))
    if draw(st.booleans()):
        prompt = [BOS, *picture, *prompt]
    modality = draw(st.sampled_from(["text", "image", "interleaved"]))
    if modality != "text" and draw(st.booleans()):
        prompt += [BEGIN, *CODES[: draw(st.integers(0, 4))]]
    options: dict[str, Any] = {"modality": modality, "max_new_tokens": draw(st.integers(6, 20))}
    if draw(st.booleans()):
        options |= {"do_sample": True, "temperature": 2.0, "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        options |= {"guidance_text": 3.0, "guidance_image": draw(st.sampled_from([1.0, 1.2]))}
    if draw(st.booleans()):
        options |= {"repetition_penalty": 1.5, "top_k": 20}
    return Request(
        prompt=prompt,
        options=GenerationOptions(**options),
        index=draw(st.integers(0, 3)),
        priority=draw(st.integers(0, 2)),
    )


@given(st.lists(requests(), min_size=1, max_size=5), st.integers(0, 2**32))
@settings(max_examples=60)
def test_ids_are_the_same_alone_and_in_any_company(asked: list[Request], chance: int) -> None:
    """Whatever arrives when, however prompts are cut, shared or suspended, and whoever is cancelled."""
    random = Random(chance)
    engine = Engine(
        MODEL,
        max_rows=random.choice([None, 1, 2, 3]),
        max_positions=random.choice([None, 300, 600]),
        prompt_chunk=random.choice([None, 1, 5, 16]),
        prefix_positions=random.choice([0, 32, 1000]),
    )
    handles: list[RequestHandle] = []
    cancelled: set[int] = set()
    pending = list(asked)
    while pending or not engine.is_idle:
        while pending and random.random() < 0.5:
            handles.append(engine.submit(pending.pop(0)))
        if handles and random.random() < 0.05:
            place = random.randrange(len(handles))
            handles[place].cancel()
            cancelled.add(place)
        engine.step()
        assert engine.max_positions is None or engine.cache.positions <= engine.max_positions
        assert engine.max_rows is None or engine.num_running <= engine.max_rows
    assert engine.cache.positions == 0
    for place, (request, handle) in enumerate(zip(asked, handles, strict=True)):
        expected = alone(request)
        if place in cancelled and handle.finish_reason == "cancelled":
            assert handle.new_ids == expected[: len(handle.new_ids)]
        else:
            assert handle.new_ids == expected
            assert handle.finish_reason in ("stop", "length")


@given(st.lists(requests(), min_size=2, max_size=4), st.integers(20, 60))
@settings(max_examples=15)
def test_a_shared_beginning_is_computed_once_and_changes_nothing(asked: list[Request], shared: int) -> None:
    beginning = [40 + place * 7 % 24 for place in range(shared)]
    asked = [
        Request(prompt=[*beginning, *request.prompt], options=request.options, index=request.index)
        for request in asked
        if request.prompt[0] != BOS
    ]
    fed: list[int] = []
    handle = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    together = run(Engine(MODEL, prefix_positions=None), *asked)
    handle.remove()
    assert together == [alone(request) for request in asked]
    handle = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(-inputs[0].numel()))
    run(Engine(MODEL), *asked)
    handle.remove()
    assert sum(fed) <= -(len(asked) - 1) * (shared // 16 * 16) if len(asked) > 1 else True


# -- What a step gives -------------------------------------------------------------------------------------------------


def step(engine: Engine[Any]) -> dict[int, tuple[int, ...]]:
    return {event.handle.number: event.ids for event in engine.step()}


def test_rows_join_a_running_batch() -> None:
    engine = Engine(make_scripted_model({A: B, B: C, C: EOS}))
    first = engine.submit(Request(prompt=[A]))
    assert step(engine) == {first.number: (B,)}
    second = engine.submit(Request(prompt=[B]))
    assert step(engine) == {first.number: (C,), second.number: (C,)}
    (event, other) = engine.step()
    assert (event.ids, event.finish_reason, other.finish_reason) == ((EOS,), "stop", "stop")
    assert engine.is_idle
    assert engine.step() == []
    assert first.new_ids == [B, C, EOS]
    assert first.is_done


def test_a_long_prompt_doesnt_hold_up_the_others() -> None:
    model = make_scripted_model({A: A})
    fed: list[int] = []
    handle = model.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    engine = Engine(model, prompt_chunk=10)
    short = engine.submit(Request(prompt=[A], options=GenerationOptions(max_new_tokens=12)))
    engine.step()
    long = engine.submit(Request(prompt=[A] * 51, options=GenerationOptions(max_new_tokens=3)))
    given = [step(engine) for _ in range(6)]
    handle.remove()
    assert all(ids[short.number] == (A,) for ids in given)
    assert [long.number in ids for ids in given] == [False] * 4 + [True, True]
    assert fed[:7] == [1, 11, 11, 11, 11, 12, 2]


def test_forced_ids_need_no_pass_of_their_own() -> None:
    passes: list[int] = []
    handle = MODEL.model.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].numel()))
    (ids,) = run(Engine(MODEL), Request(prompt=[A], options=GenerationOptions(modality="image")))
    handle.remove()
    assert (ids[0], ids[-1], len(ids)) == (BEGIN, END, 6)
    assert passes == [2, 1, 1, 1]


# -- Who runs when -----------------------------------------------------------------------------------------------------


def ended_in_order(engine: Engine[Any]) -> list[int]:
    return [event.handle.number for event in engine.run() if event.finish_reason is not None]


def test_priorities_come_first_and_then_the_order_of_arrival() -> None:
    engine = Engine(make_scripted_model({A: EOS}), max_rows=1)
    handles = [engine.submit(Request(prompt=[A], priority=priority)) for priority in (0, 2, 1, 2)]
    assert ended_in_order(engine) == [handles[place].number for place in (1, 3, 2, 0)]


def test_the_lowest_priority_waits_where_room_is_short_and_writes_the_same() -> None:
    long = GenerationOptions(max_new_tokens=100, stop_ids=())
    asked = [Request(prompt=[A + place], options=long, priority=-place) for place in range(3)]
    engine = Engine(MODEL, max_positions=200)
    handles = [engine.submit(request) for request in asked]
    order = ended_in_order(engine)
    assert [handle.new_ids for handle in handles] == [alone(request) for request in asked]
    if all(len(handle.new_ids) == 100 for handle in handles):
        assert order == [handle.number for handle in handles]


def test_a_full_engine_refuses_more() -> None:
    engine = Engine(MODEL, max_waiting=2)
    for _ in range(2):
        engine.submit(Request(prompt=[A]))
    with pytest.raises(EngineFullError, match="2 requests wait already"):
        engine.submit(Request(prompt=[A]))
    engine.step()
    engine.submit(Request(prompt=[A]))


def test_a_request_that_never_fits_is_refused_and_an_open_end_is_cut() -> None:
    engine = Engine(MODEL, max_positions=64)
    with pytest.raises(ContextLengthError, match=r"may take 71 positions in each of 1 lanes.*max_positions=64"):
        engine.submit(Request(prompt=[A], options=GenerationOptions(max_new_tokens=70)))
    with pytest.raises(ContextLengthError, match="in each of 3 lanes"):
        engine.submit(Request(prompt=[A], options=GenerationOptions(modality="image", guidance_text=2.0)))
    open_ended = engine.submit(Request(prompt=[A] * 10))
    list(engine.run())
    assert len(open_ended.new_ids) <= 54


def test_requests_end_when_they_are_cancelled_or_their_time_is_over() -> None:
    engine = Engine(make_scripted_model({A: A}), max_rows=2)
    running, late, waiting, other = (
        engine.submit(Request(prompt=[A], timeout=timeout)) for timeout in (None, 0.05, None, None)
    )
    engine.step()
    running.cancel()
    waiting.cancel()
    time.sleep(0.06)
    events = {event.handle: (event.ids, event.finish_reason) for event in engine.step()}
    assert events[running] == ((), "cancelled")
    assert events[late] == ((), "timeout")
    assert events[waiting] == ((), "cancelled")
    assert (running.new_ids, waiting.new_ids, other.is_done) == ([A], [], False)
    assert engine.num_running == 1


def test_an_error_of_one_request_ends_that_one_alone() -> None:
    model = make_scripted_model({A: A, B: B})
    model.model.embed_tokens.weight.data[C] = float("nan")
    engine = Engine(model)
    good = engine.submit(Request(prompt=[A], options=GenerationOptions(max_new_tokens=3)))
    bad = engine.submit(Request(prompt=[C]))
    list(engine.run())
    assert good.new_ids == [A, A, A]
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, GenerationError)


@pytest.mark.parametrize("name", ["max_rows", "max_positions", "max_waiting", "prompt_chunk"])
def test_limits_are_at_least_one(name: str) -> None:
    with pytest.raises(GenerationError, match=f"{name} must be at least 1, or None for no limit; got 0"):
        Engine(MODEL, **{name: 0})


def test_requests_come_from_any_thread_while_another_steps() -> None:
    engine = Engine(make_scripted_model({A: B, B: C, C: EOS}), max_rows=4, max_waiting=100)
    handles: list[RequestHandle] = []
    stop = threading.Event()

    def work() -> None:
        while not (stop.is_set() and engine.is_idle):
            engine.step()

    worker = threading.Thread(target=work)
    worker.start()

    def ask(count: int) -> None:
        for _ in range(count):
            handles.append(engine.submit(Request(prompt=[A])))

    askers = [threading.Thread(target=ask, args=(10,)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    stop.set()
    worker.join(timeout=60)
    assert not worker.is_alive()
    assert [handle.new_ids for handle in handles] == [[B, C, EOS]] * 40


@given(requests(), st.floats(0, 1), st.booleans())
@settings(max_examples=80)
def test_an_interrupted_row_goes_on_as_if_it_had_never_stopped(request: Request, share: float, crowded: bool) -> None:
    whole = alone(request)
    written = whole[: round(share * len(whole))]
    engine = Engine(MODEL, max_rows=2, prompt_chunk=3 if crowded else None)
    resumed = engine.submit(replace(request, written=written))
    others = [engine.submit(request) for _ in range(3 * crowded)]
    new = [token_id for event in engine.run() if event.handle is resumed for token_id in event.ids]
    assert resumed.new_ids == whole
    assert new == whole[len(written) :]
    assert all(other.new_ids == whole for other in others)


@pytest.mark.parametrize(
    ("modality", "written", "problem"),
    [
        ("text", [A, BEGIN], "begins a picture, for which modality='text' has no room here"),
        ("text", [A, EOS, A], r"comes after the row's end \(stop\)"),
        ("text", [CODES[0]], "is no id of text"),
        ("image", [A], "doesn't begin a picture, and modality='image' writes one"),
        ("image", [BEGIN, CODES[0], END], "can't come there in a picture"),
        ("image", [BEGIN, CODES[0], A], "can't come there in a picture"),
        ("interleaved", [A] * 16 + [BEGIN], "begins a picture, for which modality='interleaved' has no room here"),
    ],
)
def test_what_a_row_cannot_have_written_is_refused(modality: str, written: list[int], problem: str) -> None:
    options = GenerationOptions(modality=modality, max_new_tokens=20)  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match=problem):
        Engine(MODEL).submit(Request(prompt=[BOS, A], options=options, written=written))


def test_ids_outside_the_vocabulary_were_never_written() -> None:
    with pytest.raises(GenerationError, match="outside the vocabulary"):
        Engine(MODEL).submit(Request(prompt=[BOS, A], written=[10**6]))


def test_where_nobody_says_how_many_positions_are_kept_it_is_what_the_memory_holds() -> None:
    config = MODEL.config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    width = MODEL.lm_head.weight.element_size()
    assert Engine(MODEL, prefix_positions=None).prefixes.max_positions == 2**26 // (numbers * width)
    assert Engine(MODEL).prefixes.max_positions == 0
