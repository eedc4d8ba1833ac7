"""The engine of another process, as the threads of this one see it."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import pickle
import queue
import signal
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import ConfigError, GenerationError, WorkerError
from ..generation import NewIds, Request, RequestHandle, Step
from ..generation.calls import Call, run_call
from .engine_worker import Counts, Facts, ModelSource, Written, run_worker

STOP_SECONDS = 5.0
"""How long a process may take to end by itself, once it has nothing more to say or was told to."""


class EngineProcess:
    """Runs the requests of any number of callers on an engine in a process of its own: the other ``SharedEngine``.

    The process ends with this object or the program. Making one loads the model there; ``begin`` must be called before
    the first request. Raises what loading raises, and ``WorkerError`` where the process ends meanwhile.
    """

    def __init__(self, source: ModelSource) -> None:
        self._link = _Link(source)
        weakref.finalize(self, self._link.close)
        self.facts: Facts = self._link.received()

    def begin(self, tokenizer: Any, segment_grammars: Mapping[str, Any] | None) -> None:
        """Give the engine its text tokenizer and the segments' grammars, and wait until it runs.

        Raises ``ConfigError`` where they can't be sent, or the engine's bounds are impossible.
        """
        with _sendable("the processor's tokenizer and segments", ConfigError):
            self._link.send(("words", tokenizer, dict(segment_grammars or {})))
        self._link.received()
        self._link.start()

    @property
    def num_running(self) -> int:
        """How many requests run, as of the last message."""
        return self._link.counts.num_running

    @property
    def positions(self) -> int:
        """How many positions the cache has room for, as of the last message."""
        return self._link.counts.positions

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return not self._link.ended

    def run(self, requests: Sequence[Request], should_stop: Callable[[], bool]) -> Generator[Step]:
        """Submit requests eagerly, and yield an id for each at a time until all have ended or ``should_stop()``.

        Closing the generator cancels them. Raises the error of the first that ends with one, that of a step that
        failed, as ``Engine.submit``, and ``WorkerError`` where the process has ended.
        """
        return run_call(self._link, requests, should_stop)

    def close(self) -> None:
        """End the process; calls that run end with ``WorkerError``."""
        self._link.close()

    def __repr__(self) -> str:
        return f"EngineProcess(<{self.num_running} requests run>)"


class _SentCall(Call):
    """A call that another process runs."""

    def __init__(self, number: int, handles: Sequence[RequestHandle]) -> None:
        super().__init__(handles)
        self.number = number
        self.begun: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        """Gets None once the engine has the requests, or why it hasn't."""


class _Link:
    """The process, and what goes to it and comes from it.

    Its thread knows nothing of the ``EngineProcess``, so that it doesn't keep it alive.
    """

    def __init__(self, source: ModelSource) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._connection, there = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=run_worker, args=(there, source), name="chameleon-engine", daemon=False
        )
        with _sendable("the arguments of the model", ConfigError), _ignored_by_children(signal.SIGINT):
            self._process.start()
        there.close()  # so that the end of the process is the end of what it sends
        atexit.register(self.close)  # before multiprocessing waits for it
        self.counts = Counts()
        self.ended = ""
        """Why nothing runs any more."""
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._calls: dict[int, _SentCall] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to receive what the engine writes."""
        self._thread = threading.Thread(target=self._receive, name="chameleon-engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> Call:
        """Add the requests of a call, all or none."""
        call = _SentCall(next(self._numbers), [RequestHandle(request) for request in requests])
        with self._lock:
            if self.ended:
                raise WorkerError(self.ended)
            self._calls[call.number] = call
        try:
            with _sendable("the request", GenerationError):
                self.send(("begin", call.number, list(requests)))
            error = call.begun.get()
            if error is not None:
                raise error
        except BaseException:
            self._calls.pop(call.number, None)
            raise
        return call

    def cancel(self, call: Any) -> None:
        """End the requests of a call with what they have."""
        self.send(("cancel", call.number))

    def leave(self, call: Any) -> None:
        """End what is left of a call, of which nothing more is read."""
        if self._calls.pop(call.number, None) is not None:
            self.send(("leave", call.number))

    def send(self, message: Any) -> None:
        """Send a message; what is sent to a process that has ended is lost, which those who wait learn."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(message)

    def received(self) -> Any:
        """Return the next message. Raises it where it is an error, and ``WorkerError`` where the process has ended."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._end()
            message = WorkerError(self.ended)
        if isinstance(message, Exception):
            self.close()
            raise message
        return message

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        self.send(("stop",))
        self._end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._connection.close()

    def _receive(self) -> None:
        """Pass on what the process sends, until it ends."""
        try:
            while True:
                match self._connection.recv():
                    case ("begun", number, error):
                        if number in self._calls:
                            self._calls[number].begun.put(error)
                    case ("wrote", steps, counts):
                        self.counts = counts
                        self._give(steps)
                    case ("failed", number, error):
                        if number in self._calls:
                            self._calls[number].fail(error)
        except (EOFError, OSError):
            self._end()
            for call in list(self._calls.values()):
                call.begun.put(WorkerError(self.ended))
                call.fail(WorkerError(self.ended))

    def _give(self, steps: Sequence[Sequence[Written]]) -> None:
        """Give each call what is its own of some steps."""
        by_call: dict[_SentCall, list[list[NewIds]]] = {}
        for step in steps:
            own: dict[_SentCall, list[NewIds]] = {}
            for each in step:
                call = self._calls.get(each.call)
                if call is not None:  # else its caller has left
                    own.setdefault(call, []).append(_new_ids(call.handles[each.row], each))
            for call, events in own.items():
                by_call.setdefault(call, []).append(events)
        for call, events_of_steps in by_call.items():
            call.give(events_of_steps)

    def _end(self) -> None:
        """Wait for the end of the process, bring it about where that takes long, and note how it ended."""
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        with self._lock:
            self.counts = Counts()
            self.ended = (
                f"the engine's process has ended, with exit code {self._process.exitcode}, and what it ran with it. "
                "Where the system ends processes for want of memory, run fewer rows or a smaller model; then start it "
                "again."
            )


def _new_ids(handle: RequestHandle, written: Written) -> NewIds:
    """Return what a request got, and note it in its handle here."""
    handle.new_ids += written.ids
    handle.finish_reason = written.finish_reason
    handle.hypotheses = written.hypotheses
    handle.error = written.error
    return NewIds(handle, written.ids, written.finish_reason)


@contextlib.contextmanager
def _ignored_by_children(number: signal.Signals) -> Iterator[None]:
    """Start processes that ignore a signal from the beginning, while they import, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, handler)


@contextlib.contextmanager
def _sendable(what: str, error_type: type[Exception]) -> Iterator[None]:
    """Raise an error of the package where something can't be sent to another process."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise error_type(
            f"{what} can't be sent to the engine's process: {error}. Use an engine in this one."
        ) from error
