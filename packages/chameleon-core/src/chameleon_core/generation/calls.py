"""Calls of many threads on one engine: each submits requests together, and gets what they write.

The engine may be stepped by another thread, or be in another process; ``Calls`` is what a caller knows of it.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .requests import NewIds, Request, RequestHandle
from .rows import FinishReason
from .stream import Step, one_id_a_row

if TYPE_CHECKING:
    from .engine import Engine

ASK_SECONDS = 0.05
"""How often a caller that gets nothing asks whether it should stop."""


def submit_together(engine: Engine[Any], requests: Sequence[Request]) -> list[RequestHandle]:
    """Submit requests, all or none, and return their handles. Raises as ``Engine.submit``."""
    handles: list[RequestHandle] = []
    try:
        for request in requests:
            handles.append(engine.submit(request))
    except Exception:
        for handle in handles:
            handle.cancel()
        raise
    return handles


class Call:
    """The requests of one call, and the way on which it gets what they write."""

    def __init__(self, handles: Sequence[RequestHandle]) -> None:
        self.handles = handles
        self._given: queue.SimpleQueue[Sequence[Sequence[NewIds]] | Exception] = queue.SimpleQueue()
        self._unread: deque[Sequence[NewIds]] = deque()

    def give(self, steps: Sequence[Sequence[NewIds]]) -> None:
        """Hand over what steps gave this call. Any thread may do so."""
        self._given.put(steps)

    def fail(self, error: Exception) -> None:
        """End with an error that is no request's own. Any thread may do so."""
        self._given.put(error)

    def next(self) -> Sequence[NewIds]:
        """Return what the next step gave; nothing where none comes for a while. Raises the error of ``fail``."""
        if not self._unread:
            try:
                given = self._given.get(timeout=ASK_SECONDS)
            except queue.Empty:
                return ()
            if isinstance(given, Exception):
                raise given
            self._unread.extend(given)
        return self._unread.popleft()


class Calls(Protocol):
    """What runs calls."""

    def submit(self, requests: Sequence[Request], /) -> Call:
        """Add the requests of a call, all or none. Raises as ``Engine.submit``."""
        ...

    def cancel(self, call: Call, /) -> None:
        """End the requests of a call with what they have; a search writes the best text that it has."""
        ...

    def leave(self, call: Call, /) -> None:
        """End what is left of a call, of which nothing more is read."""
        ...


def run_call(calls: Calls, requests: Sequence[Request], should_stop: Callable[[], bool]) -> Generator[Step]:
    """Submit requests eagerly, and yield an id for each at a time until all have ended or ``should_stop()``.

    Closing the generator cancels them. Raises the error of the first that ends with one, that of a step that failed,
    and as ``Engine.submit``.
    """
    steps = _steps(calls, calls.submit(requests), should_stop)
    next(steps)  # so that it has begun, and is cleaned up wherever it is closed
    return steps


def _steps(calls: Calls, call: Call, should_stop: Callable[[], bool]) -> Generator[Step]:
    rows = {handle: row for row, handle in enumerate(call.handles)}
    reasons: list[FinishReason | None] = [None] * len(rows)
    left = set(rows)
    is_stopped = False
    try:
        yield Step((), ())
        while left:
            if not is_stopped and should_stop():
                is_stopped = True
                calls.cancel(call)
            events = call.next()
            for event in events:
                if event.handle.error is not None:
                    raise event.handle.error
            left -= {event.handle for event in events if event.finish_reason is not None}
            # What was cancelled writes nothing more, except the best text that a search has.
            kept = [event for event in events if not is_stopped or event.handle.hypotheses]
            yield from one_id_a_row(kept, rows, reasons)
    finally:
        calls.leave(call)
