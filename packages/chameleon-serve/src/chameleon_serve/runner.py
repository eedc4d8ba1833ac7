"""Runs requests: through the gate, each in a thread of its own that waits for what the shared pipeline writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from chameleon_core import Chameleon
from chameleon_core.pipeline import Event

from .calls import Ready, begin
from .errors import as_request_error
from .gate import Gate, Ticket
from .metrics import Metrics
from .options import ServeOptions
from .outbox import Message, Outbox

T = TypeVar("T")
READERS = 4
"""How many requests have their pictures decoded at a time, because each may take as much memory as is allowed."""
LOG = logging.getLogger("chameleon_serve")


class Presenter(Protocol):
    """Turns the events of a request into messages of its answer, in the request's thread."""

    def start(self) -> Iterable[Message]:
        """Return the messages before the first event."""
        ...

    def push(self, event: Event, /) -> Iterable[Message]:
        """Return the messages of an event."""
        ...

    def end(self) -> Iterable[Message]:
        """Return the messages after the last event."""
        ...


class Runner:
    """The one place where requests run.

    Each has a thread while it runs, which turns what the engine writes into messages. The engine, whose batch they
    share, steps in a thread of its own. ``Gate`` decides who runs.
    """

    def __init__(self, chameleon: Chameleon, options: ServeOptions, metrics: Metrics) -> None:
        self.chameleon = chameleon
        self.options = options
        self.metrics = metrics
        self.gate = Gate(options.max_rows, options.max_waiting)
        self._threads = ThreadPoolExecutor(options.max_rows, thread_name_prefix="chameleon-request")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="chameleon-reader")
        self._running: set[Outbox] = set()
        metrics.watch(self.gate, chameleon)

    async def read(self, work: Callable[[], T]) -> T:
        """Do what comes before a request waits, or needs no engine, in another thread than the event loop's."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def start(self, ready: Ready, presenter: Presenter, client: str, arrived: float) -> Outbox:
        """Return the messages of a call once its rows have begun; ``stop`` must be called when they aren't read.

        ``arrived`` is when it came, on the clock ``time.monotonic``.

        Raises ``RequestError`` where it can't wait or the model can't do what is asked.
        """
        ticket = await self.gate.enter(client, ready.rows, self._seconds_left(arrived))
        outbox = Outbox()
        self._running.add(outbox)
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, self._run, ready, presenter, outbox, arrived)
        done.add_done_callback(lambda _: self._end(outbox, ticket))
        try:
            await outbox.begun()
        except BaseException:
            outbox.stop()
            raise
        return outbox

    def stop_all(self) -> None:
        """Stop all that run, and let nobody in."""
        self.gate.close()
        for outbox in self._running:
            outbox.stop()

    def close(self) -> None:
        """Stop all, and wait for the threads."""
        self.stop_all()
        for threads in (self._readers, self._threads):
            threads.shutdown(wait=True, cancel_futures=True)

    def _end(self, outbox: Outbox, ticket: Ticket) -> None:
        self._running.discard(outbox)
        self.gate.leave(ticket)

    def _seconds_left(self, arrived: float) -> float:
        return max(0.0, self.options.max_seconds - (time.monotonic() - arrived))

    def _run(self, ready: Ready, presenter: Presenter, outbox: Outbox, arrived: float) -> None:
        """Run a call in this thread. What goes wrong becomes its error, and nobody else's."""
        has_begun = False
        try:
            if outbox.stopped.is_set():
                return
            events = begin(self.chameleon, ready, self._seconds_left(arrived), outbox.stopped.is_set)
            outbox.begin()
            has_begun = True
            watch = self.metrics.request(arrived)
            for message in presenter.start():
                outbox.put(message)
            with contextlib.closing(events):
                for event in events:
                    watch(event)
                    for message in presenter.push(event):
                        outbox.put(message)
            for message in presenter.end():
                outbox.put(message)
        except Exception as error:
            found = as_request_error(error, has_begun=has_begun)
            if found.status >= 500:
                LOG.error("a request failed", exc_info=error)
            outbox.fail(found)
        finally:
            outbox.close()
