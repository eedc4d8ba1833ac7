"""The gate: bounds, fairness among clients, deadlines, and no place is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chameleon_serve.errors import RequestError
from chameleon_serve.gate import Gate, Ticket


def run(law: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(law())  # type: ignore[arg-type]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_rows_are_bounded_and_those_that_wait_enter_in_order() -> None:
    async def law() -> None:
        gate, entered = Gate(4, 10), []

        async def ask(name: str, rows: int) -> Ticket:
            ticket = await gate.enter("one", rows, 60)
            entered.append(name)
            return ticket

        tasks = [asyncio.create_task(ask(name, rows)) for name, rows in (("a", 2), ("b", 2), ("c", 3), ("d", 1))]
        await settle()
        assert (entered, gate.rows, gate.num_waiting) == (["a", "b"], 4, 2)
        gate.leave(await tasks[0])
        await settle()
        # d would fit, and doesn't overtake c.
        assert (entered, gate.rows) == (["a", "b"], 2)
        gate.leave(await tasks[1])
        await settle()
        assert (entered, gate.rows, gate.num_waiting) == (["a", "b", "c", "d"], 4, 0)

    run(law)


def test_the_client_with_the_fewest_rows_is_next() -> None:
    async def law() -> None:
        gate, entered = Gate(2, 100), []

        async def ask(client: str) -> None:
            ticket = await gate.enter(client, 1, 60)
            entered.append(client)
            await settle()
            gate.leave(ticket)

        tasks = [asyncio.create_task(ask("many")) for _ in range(50)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(ask("few")) for _ in range(3)]
        await asyncio.gather(*tasks)
        assert max(place for place, client in enumerate(entered) if client == "few") < 9
        assert (gate.rows, gate.num_waiting, gate._running, gate._waiting) == (0, 0, {}, {})

    run(law)


def test_too_many_are_sent_away_with_the_time_to_come_back() -> None:
    async def law() -> None:
        gate = Gate(1, 2)
        await gate.enter("a", 1, 60)
        waiting = [asyncio.create_task(gate.enter("a", 1, 60)) for _ in range(2)]
        await settle()
        with pytest.raises(RequestError, match="2 requests wait already") as caught:
            await gate.enter("b", 1, 60)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        assert int(caught.value.headers["Retry-After"]) >= 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert gate.num_waiting == 0

    run(law)


def test_who_waits_too_long_is_sent_away() -> None:
    async def law() -> None:
        gate = Gate(1, 2)
        first = await gate.enter("a", 1, 60)
        with pytest.raises(RequestError, match=r"waited 0\.01 seconds") as caught:
            await gate.enter("a", 1, 0.01)
        assert caught.value.status == 503
        gate.leave(first)
        assert (gate.rows, gate.num_waiting) == (0, 0)

    run(law)


def test_a_closed_gate_sends_all_away_but_those_inside() -> None:
    async def law() -> None:
        gate = Gate(1, 2)
        first = await gate.enter("a", 1, 60)
        waiting = asyncio.create_task(gate.enter("a", 1, 60))
        await settle()
        gate.close()
        for refused in (waiting, gate.enter("b", 1, 60)):
            with pytest.raises(RequestError, match="stopping"):
                await refused
        gate.leave(first)
        assert (gate.rows, gate.num_waiting) == (0, 0)

    run(law)


def test_ten_thousand_that_wait_and_go_away_at_any_moment_leave_nothing() -> None:
    async def law() -> None:
        gate = Gate(8, 20_000)

        async def ask(number: int) -> None:
            ticket = await gate.enter(f"client {number % 7}", 1 + number % 3, 60)
            try:
                await asyncio.sleep(0)
            finally:
                gate.leave(ticket)

        tasks = [asyncio.create_task(ask(number)) for number in range(10_000)]
        for number, task in enumerate(tasks):
            if number % 100 == 0:
                await asyncio.sleep(0)
            if number % 3 == 0:
                task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert (gate.rows, gate.num_waiting, gate._running, gate._waiting) == (0, 0, {}, {})

    run(law)
