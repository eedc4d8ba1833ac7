"""An engine in another process: each call writes what it writes alone, and whatever ends, nobody waits for ever."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from engine_calls import BOS, MODEL, REQUESTS, alone, never, written

from chameleon_core import (
    ChameleonForConditionalGeneration,
    ConfigError,
    ContextLengthError,
    GenerationError,
    GenerationOptions,
)
from chameleon_core.errors import ModelNotFoundError, WorkerError
from chameleon_core.generation import Engine, NewIds, Request
from chameleon_core.serving.engine_process import EngineProcess
from chameleon_core.serving.engine_worker import EngineWorker, ModelSource


def comes_true(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def is_idle(process: EngineProcess) -> bool:
    return process.num_running == process.positions == 0


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    MODEL.save_pretrained(path)
    return path


def begun(folder: Path) -> EngineProcess:
    process = EngineProcess(ModelSource(folder, {"dtype": "float64"}, {"max_rows": 8}, threads=1))
    process.begin(None, None)
    return process


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[EngineProcess]:
    made = begun(folder)
    yield made
    made.close()


KEPT: set[int | None] = set()
"""The processes that a test didn't start."""


@pytest.fixture(autouse=True)
def _kept(process: EngineProcess) -> None:
    KEPT.clear()
    KEPT.update(each.pid for each in multiprocessing.active_children())


def new_pid() -> int:
    """The process that the test has started."""
    (pid,) = {each.pid for each in multiprocessing.active_children()} - KEPT
    assert pid is not None
    return pid


def test_it_knows_the_model(process: EngineProcess, folder: Path) -> None:
    facts = process.facts
    loaded = ChameleonForConditionalGeneration.from_pretrained(folder, dtype="float64")
    assert facts.config == loaded.config
    assert facts.generation_options == loaded.generation_options
    assert (facts.source, facts.device, facts.num_bytes) == (folder, "cpu", loaded.get_memory_footprint())


def test_each_call_writes_what_it_writes_alone(process: EngineProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda request: written(process.run([request], never)), REQUESTS))
    assert found == list(map(alone, REQUESTS))
    assert comes_true(lambda: is_idle(process))


def test_rows_of_one_call_stay_apart(process: EngineProcess) -> None:
    rows: list[list[int]] = [[], [], []]
    reasons: Any = ()
    for step in process.run(REQUESTS[:3], never):
        reasons = step.finish_reasons
        for row, token_id in zip(rows, step.ids, strict=True):
            row += [] if token_id is None else [token_id]
    assert rows == list(map(alone, REQUESTS[:3]))
    assert None not in reasons


def test_a_search_writes_what_it_writes_alone(process: EngineProcess) -> None:
    options = GenerationOptions(decoding="beam", max_new_tokens=6, do_sample=False)
    request = Request(prompt=[BOS, 41, 42], options=options)
    assert written(process.run([request], never)) == alone(request)


@pytest.mark.parametrize("reads", [False, True])
def test_a_call_that_is_closed_frees_its_room(process: EngineProcess, reads: bool) -> None:
    steps = process.run([REQUESTS[1]], never)
    if reads:
        next(steps)
    steps.close()
    assert written(process.run([REQUESTS[0]], never)) == alone(REQUESTS[0])
    assert comes_true(lambda: is_idle(process))


def test_a_call_stops_when_it_is_told_and_the_others_go_on(process: EngineProcess) -> None:
    stop = threading.Event()
    ids: list[int] = []
    other = process.run([REQUESTS[2]], never)
    for step in process.run([REQUESTS[1]], stop.is_set):
        ids += [each for each in step.ids if each is not None]
        stop.set()
    whole = alone(REQUESTS[1])
    assert ids == whole[: len(ids)]
    assert len(ids) >= 1
    assert written(other) == alone(REQUESTS[2])


def test_what_can_not_be_done_is_refused_eagerly_and_leaves_nothing(process: EngineProcess) -> None:
    too_long = Request(prompt=[BOS] * 10_000, options=REQUESTS[0].options)
    with pytest.raises(ContextLengthError, match="10000 ids"):
        process.run([REQUESTS[0], too_long], never)
    unknown: Any = lambda state: state  # noqa: E731  # what no other process can get
    with pytest.raises(GenerationError, match="can't be sent to the engine's process"):
        process.run([Request(prompt=[BOS], processors=unknown)], never)
    assert written(process.run([REQUESTS[3]], never)) == alone(REQUESTS[3])
    assert comes_true(lambda: is_idle(process))


def test_what_loading_raises_is_raised_here(folder: Path, tmp_path: Path) -> None:
    children = multiprocessing.active_children()
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        EngineProcess(ModelSource(str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="the arguments of the model can't be sent"):
        EngineProcess(ModelSource(folder, {"dtype": lambda: None}))
    assert multiprocessing.active_children() == children


def test_bounds_that_are_impossible_are_refused(folder: Path) -> None:
    made = EngineProcess(ModelSource(folder, bounds={"max_rows": 0}))
    with pytest.raises(GenerationError, match="max_rows must be at least 1"):
        made.begin(None, None)
    assert not made.is_alive


def test_a_process_that_is_killed_ends_all_calls(folder: Path) -> None:
    made = begun(folder)
    pid = new_pid()
    for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal or a service manager, which stop the program first
        os.kill(pid, number)
    assert written(made.run([REQUESTS[0]], never)) == alone(REQUESTS[0])
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.run, [REQUESTS[1]], never)
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="exit code -9"):
            waiting.result(30)
    with pytest.raises(WorkerError, match="has ended"):
        made.run([REQUESTS[1]], never)
    assert not made.is_alive
    made.close()


def test_it_ends_with_its_object(folder: Path) -> None:
    made = begun(folder)
    steps = made.run([REQUESTS[1]], never)
    pid = new_pid()
    steps.close()
    del made, steps
    gc.collect()
    assert comes_true(lambda: not is_running(pid))


PROGRAM = """
import os, sys
from chameleon_core.serving.engine_process import EngineProcess
from chameleon_core.serving.engine_worker import ModelSource

if __name__ == "__main__":
    process = EngineProcess(ModelSource(sys.argv[1]))
    print(process._link._process.pid, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("ends", ["killed", "by itself"])
def test_it_ends_with_the_program(folder: Path, tmp_path: Path, ends: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run([sys.executable, program, folder, ends], capture_output=True, text=True, timeout=60)
    assert ended.returncode == (-9 if ends == "killed" else 0), ended.stderr
    assert comes_true(lambda: not is_running(int(ended.stdout)))


class FailingEngine(Engine[Any]):
    """An engine whose next step fails where there is an error."""

    error: Exception | None = None

    def step(self) -> list[NewIds]:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().step()


@pytest.fixture
def worker() -> Iterator[tuple[Connection, FailingEngine]]:
    """A connection to an engine in a thread of this process."""
    here, there = multiprocessing.Pipe()
    engine = FailingEngine(MODEL)
    thread = threading.Thread(target=EngineWorker(engine, there).run, daemon=True)
    thread.start()
    yield here, engine
    here.send(("stop",))
    thread.join(30)
    assert not thread.is_alive()


def received(connection: Connection) -> Any:
    assert connection.poll(30)
    return connection.recv()


def test_the_first_and_the_last_ids_are_sent_at_once_and_others_together(
    worker: tuple[Connection, FailingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = worker
    monkeypatch.setattr("chameleon_core.serving.engine_worker.HAND_OVER_SECONDS", 60.0)
    connection.send(("begin", 7, [REQUESTS[0]]))
    assert received(connection) == ("begun", 7, None)
    steps: list[Any] = []
    counts: Any = None
    while not steps or steps[-1][-1].finish_reason is None:
        kind, some, counts = received(connection)
        assert kind == "wrote"
        steps.append([written for step in some for written in step])
    assert [len(each) for each in steps] == [1, len(alone(REQUESTS[0])) - 1]
    assert [token_id for each in steps for written in each for token_id in written.ids] == alone(REQUESTS[0])
    assert {(written.call, written.row) for each in steps for written in each} == {(7, 0)}
    assert counts == (0, 0)  # nothing runs, and no position is kept


def test_the_error_of_a_step_is_that_of_all_calls_and_later_ones_run(
    worker: tuple[Connection, FailingEngine],
) -> None:
    connection, engine = worker
    engine.error = RuntimeError("out of memory")
    connection.send(("begin", 1, REQUESTS[:2]))
    assert received(connection) == ("begun", 1, None)
    kind, call, error = received(connection)
    assert (kind, call, str(error)) == ("failed", 1, "out of memory")
    connection.send(("begin", 2, [REQUESTS[2]]))
    ids: list[int] = []
    reason = None
    while reason is None:
        message = received(connection)
        if message[0] == "wrote":
            for each in [written for step in message[1] for written in step]:
                assert each.call == 2
                ids += each.ids
                reason = each.finish_reason
    assert ids == alone(REQUESTS[2])
