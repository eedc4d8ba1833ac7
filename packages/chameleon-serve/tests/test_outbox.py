"""Messages of a thread reach the event loop in order, whole, and of previews at least the newest."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from chameleon_serve.errors import RequestError
from chameleon_serve.outbox import Message, Outbox


def test_messages_come_in_order_and_none_is_lost() -> None:
    async def law() -> list[Any]:
        outbox = Outbox()

        def work() -> None:
            outbox.begin()
            for number in range(5000):
                outbox.put(Message(number))
            outbox.close()

        thread = threading.Thread(target=work)
        thread.start()
        await outbox.begun()
        found = [message.data async for messages in outbox for message in messages]
        thread.join()
        return found

    assert asyncio.run(law()) == list(range(5000))


def test_a_slow_reader_gets_the_newest_of_what_merges_and_all_of_the_rest() -> None:
    async def law() -> list[Any]:
        outbox = Outbox()
        outbox.put(Message({"row": 0, "done": 1, "preview": None}, merges=0))
        outbox.put(Message({"row": 1, "done": 1, "preview": None}, merges=1))
        outbox.put(Message({"row": 0, "done": 2, "preview": "a"}, merges=0))
        outbox.put(Message({"row": 0, "done": 3, "preview": None}, merges=0))
        outbox.put(Message({"text": "b"}))
        outbox.put(Message({"row": 0, "done": 4, "preview": None}, merges=0))
        outbox.close()
        return [message.data async for messages in outbox for message in messages]

    assert asyncio.run(law()) == [
        {"row": 0, "done": 3, "preview": "a"},
        {"row": 1, "done": 1, "preview": None},
        {"text": "b"},
        {"row": 0, "done": 4, "preview": None},
    ]


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_error_is_raised_where_the_reader_waits(has_begun: bool) -> None:
    async def law() -> None:
        outbox = Outbox()
        if has_begun:
            outbox.begin()
            outbox.put(Message(1))
        outbox.fail(RequestError("It went wrong."))
        if not has_begun:
            with pytest.raises(RequestError, match="wrong"):
                await outbox.begun()
            return
        await outbox.begun()
        with pytest.raises(RequestError, match="wrong"):
            await outbox.last()

    asyncio.run(law())


def test_a_thread_that_outlives_the_loop_is_stopped() -> None:
    async def make() -> Outbox:
        return Outbox()

    outbox = asyncio.run(make())
    outbox.put(Message(1))
    assert outbox.stopped.is_set()
