"""What a request's thread has for the event loop: messages, in order, of which a slow reader misses only previews."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Message:
    """A piece of an answer."""

    data: Any
    """What is sent, as plain JSON."""
    event: str | None = None
    """The name of the event."""
    merges: Hashable = None
    """What it is the newest of: an unsent message of the same is replaced. None where nothing is."""


class Outbox:
    """Hands messages of one thread to one coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque()
        self._unsent: dict[Hashable, Message] = {}
        self._error: Exception | None = None
        self._has_begun = False
        self._is_closed = False
        self._changed = asyncio.Event()
        self._is_told = False
        self.stopped = threading.Event()
        """Set once nobody reads the messages any more."""

    def begin(self) -> None:
        """Say that the request has begun to run. Called by the thread, as the next three are."""
        with self._lock:
            self._has_begun = True
        self._tell()

    def put(self, message: Message) -> None:
        """Add a message."""
        with self._lock:
            unsent = self._unsent.get(message.merges) if message.merges is not None else None
            if unsent is not None:
                # A preview that wasn't sent yet stays beside the newer numbers.
                unsent.data |= {name: value for name, value in message.data.items() if value is not None}
                return
            if message.merges is not None:
                self._unsent[message.merges] = message
            else:
                self._unsent.clear()  # so that nothing moves before a message that is there already
            self._messages.append(message)
        self._tell()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        with self._lock:
            self._error = error
        self.close()

    def close(self) -> None:
        """Say that there is nothing more."""
        with self._lock:
            self._is_closed = True
        self._tell()

    def stop(self) -> None:
        """Say that nobody reads any more: the request ends before its next step."""
        self.stopped.set()

    async def begun(self) -> None:
        """Wait until the request runs. Raises its error where it can't."""
        while not self._has_begun:
            await self._wait()
            if self._error is not None and not self._has_begun:
                raise self._error
            if self._is_closed:
                return

    async def __aiter__(self) -> AsyncIterator[list[Message]]:
        """Yield the messages as they come, all that are there at once. Raises the error that the request ended with."""
        while True:
            with self._lock:
                messages = list(self._messages)
                self._messages.clear()
                self._unsent.clear()
                is_closed = self._is_closed
            if messages:
                yield messages
            elif is_closed:
                if self._error is not None:
                    raise self._error
                return
            else:
                await self._wait()

    async def last(self) -> Any:
        """Return the data of the last message, which is the whole answer where nothing is streamed."""
        data = None
        async for messages in self:
            data = messages[-1].data
        return data

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()
        with self._lock:
            self._is_told = False

    def _tell(self) -> None:
        """Wake the reader, once for any number of messages that it hasn't looked at."""
        with self._lock:
            if self._is_told:
                return
            self._is_told = True
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            self.stop()  # the loop is closed
