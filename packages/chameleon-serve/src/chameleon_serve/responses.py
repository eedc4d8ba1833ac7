"""Answers: JSON, errors, and streams of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import anyio
import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from .errors import RequestError
from .options import ServeOptions
from .outbox import Outbox

T = TypeVar("T")
PING_SECONDS = 15
"""How often a stream that has nothing to say shows that it is there."""
JSON = "application/json"


class ClientGoneError(Exception):
    """The client went away; nobody reads an answer."""


def json_response(data: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(msgspec.json.encode(data), status, media_type=JSON)


def error_response(error: RequestError) -> Response:
    """Return the answer that an error is."""
    return Response(msgspec.json.encode(error.body()), error.status, error.headers, media_type=JSON)


async def unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Return an answer; cancel it once the client goes away, and raise ``ClientGoneError``.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def stream_response(outbox: Outbox, options: ServeOptions, *, done: str | None = None) -> Response:
    """Return the messages of a request as a stream of events; ``done`` is the data of a last one."""
    return EventSourceResponse(
        _events(outbox, done),
        ping=PING_SECONDS,
        sep="\n",
        send_timeout=options.send_seconds,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=options.stop_seconds,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(outbox: Outbox, done: str | None) -> AsyncIterator[bytes]:
    """Yield what is sent: all events that are there are sent at once, because each sending has its price."""
    try:
        async for messages in outbox:
            yield b"".join(_event(message.data, message.event) for message in messages)
        if done is not None:
            yield ServerSentEvent(done, sep="\n").encode()
    except RequestError as error:
        # The clients of OpenAI's API raise what has the member "error"; ours look at the name.
        yield _event(error.body(), "Error" if done is None else None)
    finally:
        outbox.stop()


def _event(data: Any, name: str | None) -> bytes:
    return ServerSentEvent(msgspec.json.encode(data).decode(), event=name, sep="\n").encode()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
