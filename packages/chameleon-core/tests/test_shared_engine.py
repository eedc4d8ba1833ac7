"""An engine that threads share: each call writes what it writes alone, whatever the others do."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from engine_calls import BOS, MODEL, REQUESTS, alone, never, written

from chameleon_core import ContextLengthError
from chameleon_core.generation import Engine, NewIds, Request, SharedEngine


class HeldEngine(Engine[Any]):
    """An engine that makes no step before it is let go on, and notes who makes them."""

    def __init__(self, *args: Any, **bounds: Any) -> None:
        super().__init__(*args, **bounds)
        self.goes_on = threading.Event()
        self.threads: set[int] = set()
        self.error: Exception | None = None

    def step(self) -> list[NewIds]:
        assert self.goes_on.wait(60)
        self.threads.add(threading.get_ident())
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().step()


def test_each_call_writes_what_it_writes_alone() -> None:
    shared = SharedEngine(Engine(MODEL))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda request: written(shared.run([request], never)), REQUESTS))
    assert found == list(map(alone, REQUESTS))
    assert shared.engine.is_idle


def test_rows_of_one_call_stay_apart() -> None:
    shared = SharedEngine(Engine(MODEL))
    rows: list[list[int]] = [[], [], []]
    reasons: Any = ()
    for step in shared.run(REQUESTS[:3], never):
        reasons = step.finish_reasons
        for row, token_id in zip(rows, step.ids, strict=True):
            row += [] if token_id is None else [token_id]
    assert rows == list(map(alone, REQUESTS[:3]))
    assert None not in reasons


def test_a_call_that_waits_for_nobody_is_served_by_the_others() -> None:
    shared = SharedEngine(Engine(MODEL))
    first, second = (shared.run([request], never) for request in REQUESTS[:2])
    assert written(first) == alone(REQUESTS[0])
    assert written(second) == alone(REQUESTS[1])


@pytest.mark.parametrize("begun", [False, True])
def test_a_call_that_is_closed_frees_its_room(begun: bool) -> None:
    shared = SharedEngine(Engine(MODEL))
    steps = shared.run([REQUESTS[1]], never)
    if begun:
        next(steps)
    steps.close()
    assert written(shared.run([REQUESTS[0]], never)) == alone(REQUESTS[0])
    assert shared.engine.is_idle
    assert shared.engine.cache.positions == 0


def test_a_call_stops_when_it_is_told_and_the_others_go_on() -> None:
    shared = SharedEngine(Engine(MODEL))
    stop = threading.Event()
    ids: list[int] = []
    other = shared.run([REQUESTS[2]], never)
    for step in shared.run([REQUESTS[1]], stop.is_set):
        ids += [each for each in step.ids if each is not None]
        if len(ids) >= 3:
            stop.set()
    whole = alone(REQUESTS[1])
    assert 3 <= len(ids) < len(whole)
    assert ids == whole[: len(ids)]
    assert written(other) == alone(REQUESTS[2])


def test_a_call_that_waits_for_room_is_stopped_while_it_waits() -> None:
    engine = HeldEngine(MODEL, max_rows=1)
    shared = SharedEngine(engine)
    first = shared.run([REQUESTS[1]], never)

    def stop_at_the_second_question() -> bool:
        questions.append(None)
        if len(questions) == 2:
            engine.goes_on.set()
        return len(questions) >= 2

    questions: list[None] = []
    assert written(shared.run([REQUESTS[0]], stop_at_the_second_question)) == []
    assert written(first) == alone(REQUESTS[1])


def test_one_thread_makes_the_steps_of_all_calls() -> None:
    engine = HeldEngine(MODEL)
    engine.goes_on.set()
    shared = SharedEngine(engine)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda request: written(shared.run([request], never)), REQUESTS))
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_the_thread_ends_with_the_engine() -> None:
    def stepping() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "chameleon-engine"]

    gc.collect()
    others = stepping()
    shared = SharedEngine(Engine(MODEL))
    written(shared.run([REQUESTS[0]], never))
    assert len(stepping()) == len(others) + 1
    del shared
    gc.collect()
    assert stepping() == others


def test_the_error_of_a_step_is_that_of_all_calls_and_later_ones_run() -> None:
    engine = HeldEngine(MODEL)
    shared = SharedEngine(engine)
    calls = [shared.run([request], never) for request in REQUESTS[:2]]
    engine.error = RuntimeError("out of memory")
    engine.goes_on.set()
    for call in calls:
        with pytest.raises(RuntimeError, match="out of memory"):
            written(call)
    assert written(shared.run([REQUESTS[2]], never)) == alone(REQUESTS[2])
    assert shared.engine.is_idle
    assert shared.engine.cache.positions == 0


def test_a_slow_reader_gets_everything_and_holds_nobody_up() -> None:
    shared = SharedEngine(Engine(MODEL))
    slow = shared.run([REQUESTS[2]], never)
    assert written(shared.run([REQUESTS[1]], never)) == alone(REQUESTS[1])
    deadline = time.monotonic() + 60
    while not shared.engine.is_idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shared.engine.is_idle  # before anything of the slow one was read
    assert written(slow) == alone(REQUESTS[2])


def test_what_can_not_be_done_is_refused_eagerly_and_leaves_nothing() -> None:
    shared = SharedEngine(Engine(MODEL))
    too_long = Request(prompt=[BOS] * 10_000, options=REQUESTS[0].options)
    with pytest.raises(ContextLengthError):
        shared.run([REQUESTS[0], too_long], never)
    assert written(shared.run([REQUESTS[3]], never)) == alone(REQUESTS[3])
    assert shared.engine.is_idle
