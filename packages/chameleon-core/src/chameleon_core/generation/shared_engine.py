"""One engine for the calls of many threads: their requests share its steps, and whoever waits makes the next one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from .engine import Engine
from .requests import NewIds, Request, RequestHandle
from .rows import FinishReason
from .stream import Step, one_id_a_row


class SharedEngine:
    """Runs the requests of any number of callers on an engine, which nobody else may step."""

    def __init__(self, engine: Engine[Any]) -> None:
        self.engine = engine
        self._changed = threading.Condition()
        self._is_stepping = False
        self._events: dict[RequestHandle, deque[NewIds]] = {}

    def __repr__(self) -> str:
        return f"SharedEngine(<{self.engine.num_running} requests run>)"

    def run(self, requests: Sequence[Request], should_stop: Callable[[], bool]) -> Generator[Step]:
        """Submit requests eagerly, and yield an id for each at a time until all have ended or ``should_stop()``.

        Closing the generator cancels them. Raises the error of the first that ends with one, and as ``Engine.submit``.
        """
        handles: list[RequestHandle] = []
        with self._changed:  # so that no step hands out events before somebody is there for them
            try:
                for request in requests:
                    handles.append(self.engine.submit(request))
            except Exception:
                for handle in handles:
                    handle.cancel()
                raise
            self._events.update((handle, deque()) for handle in handles)
        steps = self._steps(handles, should_stop)
        next(steps)  # so that it has begun, and is cleaned up wherever it is closed
        return steps

    def _steps(self, handles: Sequence[RequestHandle], should_stop: Callable[[], bool]) -> Generator[Step]:
        rows = {handle: row for row, handle in enumerate(handles)}
        reasons: list[FinishReason | None] = [None] * len(handles)
        left = set(handles)
        is_stopped = False
        try:
            yield Step((), ())
            while left:
                if not is_stopped and should_stop():
                    is_stopped = True
                    for handle in left:
                        handle.cancel()
                events = self._next(handles)
                for event in events:
                    if event.handle.error is not None:
                        raise event.handle.error
                left -= {event.handle for event in events if event.finish_reason is not None}
                # What was cancelled writes nothing more, except the best text that a search has.
                kept = [event for event in events if not is_stopped or event.handle.hypotheses]
                yield from one_id_a_row(kept, rows, reasons)
        finally:
            for handle in handles:
                handle.cancel()
            with self._changed:
                for handle in handles:
                    del self._events[handle]

    def _next(self, handles: Sequence[RequestHandle]) -> list[NewIds]:
        """Return what is new of some requests, after a step for all where there is nothing; maybe still nothing."""
        with self._changed:
            found = [self._events[handle].popleft() for handle in handles if self._events[handle]]
            if found:
                return found
            if self._is_stepping:
                self._changed.wait()  # the caller asks again, unless it is stopped meanwhile
                return []
            self._is_stepping = True
        events: list[NewIds] = []
        try:
            events = self.engine.step()
        finally:
            with self._changed:
                for event in events:
                    if event.handle in self._events:  # else its caller has left
                        self._events[event.handle].append(event)
                self._is_stepping = False
                self._changed.notify_all()
        return []
