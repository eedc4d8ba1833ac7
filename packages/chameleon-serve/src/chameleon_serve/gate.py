"""Who runs next: requests wait here, outside of the engine, so that ten thousand that wait cost nothing but a place.

All of it happens in the server's event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass, field

from .errors import RequestError

_SMOOTHING = 0.1


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place: before the gate, then inside."""

    client: str
    """Who asked."""
    rows: int
    """How many rows it runs."""
    number: int
    """The number of the request, ascending in the order of arrival."""
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done once it may run."""
    since: float = 0.0
    """When it was admitted, on the loop's clock."""


class Gate:
    """Admits requests while there is room for their rows, up to ``max_rows``; ``max_waiting`` may wait.

    The next is the first of the client that has the fewest rows running, so that nobody's many requests hold up
    another's few. Nothing overtakes the next one, so that one with many rows isn't left waiting for ever.
    """

    def __init__(self, max_rows: int, max_waiting: int) -> None:
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.rows = 0
        self.is_closed = False
        self._numbers = itertools.count()
        self._waiting: dict[str, dict[Ticket, None]] = {}
        self._num_waiting = 0
        self._running: dict[str, int] = {}
        self._seconds = 1.0
        """How long a request runs, the mean of the last ones."""

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return self._num_waiting

    @property
    def retry_after(self) -> int:
        """After how many seconds the queue has likely got shorter, 1…60."""
        return min(60, max(1, math.ceil(self._seconds * (1 + self._num_waiting / self.max_rows))))

    async def enter(self, client: str, rows: int, seconds: float) -> Ticket:
        """Return a place inside, for which ``leave`` must be called, once there is room.

        Raises ``RequestError`` where too many wait, the server stops, or there was no room within ``seconds``.
        """
        self.check()
        ticket = Ticket(client, rows, next(self._numbers))
        if not self._num_waiting and self.rows + rows <= self.max_rows:
            self._admit(ticket)
            return ticket
        self._waiting.setdefault(client, {})[ticket] = None
        self._num_waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await ticket.admitted
        except TimeoutError:
            self._give_up(ticket)
            raise RequestError(
                f"the request waited {seconds:.3g} seconds, all that it had, and didn't begin. Send it again later.",
                status=503,
                code="timeout",
                retry_after=self.retry_after,
            ) from None
        except BaseException:
            self._give_up(ticket)
            raise
        return ticket

    def check(self) -> None:
        """Raise ``RequestError`` where another request couldn't wait: too many do, or the server stops."""
        if self.is_closed:
            raise stopping()
        if self._num_waiting >= self.max_waiting:
            raise RequestError(
                f"{self._num_waiting} requests wait already, as many as this server takes. Send this one again later.",
                status=429,
                code="queue_full",
                retry_after=self.retry_after,
            )

    def leave(self, ticket: Ticket) -> None:
        """Give a place inside back."""
        self.rows -= ticket.rows
        left = self._running[ticket.client] - ticket.rows
        if left:
            self._running[ticket.client] = left
        else:
            del self._running[ticket.client]
        took = asyncio.get_running_loop().time() - ticket.since
        self._seconds += _SMOOTHING * (took - self._seconds)
        self._admit_waiting()

    def close(self) -> None:
        """Let nobody in any more, and send away those that wait."""
        self.is_closed = True
        for tickets in self._waiting.values():
            for ticket in tickets:
                if not ticket.admitted.done():
                    ticket.admitted.set_exception(stopping())

    def _admit_waiting(self) -> None:
        while self._num_waiting:
            heads = (next(iter(tickets)) for tickets in self._waiting.values())
            ticket = min(heads, key=lambda each: (self._running.get(each.client, 0), each.number))
            if not ticket.admitted.done() and self.rows + ticket.rows > self.max_rows:
                return
            self._remove(ticket)
            if not ticket.admitted.done():
                self._admit(ticket)

    def _admit(self, ticket: Ticket) -> None:
        self.rows += ticket.rows
        self._running[ticket.client] = self._running.get(ticket.client, 0) + ticket.rows
        ticket.since = asyncio.get_running_loop().time()
        ticket.admitted.set_result(None)

    def _remove(self, ticket: Ticket) -> bool:
        """Remove a ticket of those that wait; return whether it was there."""
        tickets = self._waiting.get(ticket.client, {})
        if ticket not in tickets:
            return False
        del tickets[ticket]
        self._num_waiting -= 1
        if not tickets:
            del self._waiting[ticket.client]
        return True

    def _give_up(self, ticket: Ticket) -> None:
        """Forget a request that waits no longer; it may have been admitted at the same moment."""
        if self._remove(ticket):
            self._admit_waiting()  # it may have been the next, and too large
        elif ticket.since:
            self.leave(ticket)


def stopping() -> RequestError:
    """Return what clients are told while the server stops."""
    return RequestError("the server is stopping.", status=503, code="stopping", retry_after=5)
