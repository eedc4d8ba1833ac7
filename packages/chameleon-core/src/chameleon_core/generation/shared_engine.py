"""One engine for the calls of many threads: a thread of its own makes the steps, which their requests share.

That it is one thread, whoever calls, keeps the buffers that libraries of mathematics hold for each thread that uses
them from growing with the number of callers.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

from .calls import Call, run_call, submit_together
from .engine import Engine
from .requests import NewIds, Request, RequestHandle
from .stream import Step

HAND_OVER_SECONDS = 0.02
"""How often a caller is woken for new ids while its requests run; a step of a small model is shorter."""
REST_SECONDS = 0.1
"""How long the engine rests after a step that failed, unless a request comes."""


class SharedEngine:
    """Runs the requests of any number of callers on an engine, which nobody else may step.

    The thread that steps begins with the first request, and ends with this object or the program.
    """

    def __init__(self, engine: Engine[Any]) -> None:
        self.engine = engine
        self._stepper = _Stepper(engine)
        weakref.finalize(self, self._stepper.stop)

    def __repr__(self) -> str:
        return f"SharedEngine(<{self.num_running} requests run>)"

    @property
    def num_running(self) -> int:
        """How many requests run."""
        return self.engine.num_running

    @property
    def positions(self) -> int:
        """How many positions the cache has room for."""
        return self.engine.cache.positions

    def run(self, requests: Sequence[Request], should_stop: Callable[[], bool]) -> Generator[Step]:
        """Submit requests eagerly, and yield an id for each at a time until all have ended or ``should_stop()``.

        Closing the generator cancels them. Raises the error of the first that ends with one, that of a step that
        failed, and as ``Engine.submit``.
        """
        return run_call(self._stepper, requests, should_stop)


class _Stepped(Call):
    """A call that gets what several steps gave it at a time."""

    def __init__(self, handles: Sequence[RequestHandle]) -> None:
        super().__init__(handles)
        self._steps: list[list[NewIds]] = []
        self._handed_over = 0.0

    def add(self, events: list[NewIds]) -> None:
        """Take what a step gave this call. Called by the thread that steps."""
        self._steps.append(events)
        now = time.monotonic()
        if now - self._handed_over >= HAND_OVER_SECONDS or any(event.finish_reason is not None for event in events):
            self.give(self._steps)
            self._steps = []
            self._handed_over = now


class _Stepper:
    """Steps an engine in a thread of its own while it has requests.

    The thread knows nothing of the ``SharedEngine``, so that it doesn't keep it alive.
    """

    def __init__(self, engine: Engine[Any]) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._calls: dict[RequestHandle, _Stepped] = {}
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def submit(self, requests: Sequence[Request]) -> Call:
        """Add the requests of a call, all or none."""
        with self._changed:  # so that no step hands over ids before somebody is there for them
            try:
                call = _Stepped(submit_together(self._engine, requests))
            finally:
                self._start()
            self._calls.update((handle, call) for handle in call.handles)
        return call

    def cancel(self, call: Call) -> None:
        """End the requests of a call with what they have."""
        for handle in call.handles:
            handle.cancel()

    def leave(self, call: Call) -> None:
        """Cancel the requests of a call that are left."""
        with self._changed:
            self.cancel(call)
            for handle in call.handles:
                self._calls.pop(handle, None)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread, after the step that it is at."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        # Python ends the thread of a program that ends, too, and must not do so within a step.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self) -> None:
        """Wake the thread, or begin one."""
        if self._thread is None or not self._thread.is_alive():  # never begun, or lost in a process that was forked
            self._thread = threading.Thread(target=self._run, name="chameleon-engine", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or not self._engine.is_idle)
                if self._is_stopped:
                    return
            try:
                events = self._engine.step()
            except Exception as error:
                self._fail(error)
            else:
                self._hand_over(events)

    def _hand_over(self, events: Sequence[NewIds]) -> None:
        """Give each call what is its own of a step."""
        by_call: dict[_Stepped, list[NewIds]] = {}
        with self._changed:
            for event in events:
                if event.handle in self._calls:  # else its caller has left
                    by_call.setdefault(self._calls[event.handle], []).append(event)
        for call, own in by_call.items():
            call.add(own)

    def _fail(self, error: Exception) -> None:
        """Let all calls end with the error of a step, which left rows nobody knows how far."""
        with self._changed:
            for handle, call in self._calls.items():
                handle.cancel()
                call.fail(error)
            self._calls.clear()
            self._changed.wait(REST_SECONDS)
