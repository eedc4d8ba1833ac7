"""The body of a request: read within limits, and turned into one of the classes of ``requests``."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from .errors import RequestError
from .options import ServeOptions

T = TypeVar("T")

_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`(?: - at `(?P<path>.*?)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>.*?)`(?: - at `(?P<path>.*?)`)?$")
_WRONG = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*?)`)?$", re.DOTALL)


@dataclass
class Bodies:
    """How many bytes of bodies are held, of all requests that aren't prepared yet."""

    limit: int
    """The most bytes."""
    held: int = 0
    """Those that are held now."""

    def take(self, count: int) -> None:
        """Hold more. Raises ``RequestError`` where that is too much."""
        if self.held + count > self.limit:
            raise RequestError(
                "too many large bodies arrive at the same time. Send this one again later.",
                status=429,
                code="busy",
                retry_after=1,
            )
        self.held += count

    def hold(self) -> Held:
        """Return what holds one body, as a context."""
        return Held(self)


class Held:
    """A request's body, which is held until it is prepared or refused."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held = 0
        self.data = bytearray()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def add(self, piece: bytes) -> None:
        """Hold another piece. Raises ``RequestError`` where all bodies together are too large."""
        self._bodies.take(len(piece))
        self._held += len(piece)
        self.data += piece

    def release(self) -> None:
        """Hold nothing any more."""
        self._bodies.held -= self._held
        self._held = 0
        self.data = bytearray()


async def read_request(request: Request, wanted: type[T], options: ServeOptions, held: Held) -> T:
    """Return the JSON body of a request as an object of ``wanted``. Raises ``RequestError`` where it isn't one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f"the body's Content-Type is {kind or 'missing'!r:.80}, expected application/json.", status=415
        )
    await read_body(request, options, held)
    return parse_request(bytes(held.data), wanted)


async def read_body(request: Request, options: ServeOptions, held: Held) -> None:
    """Read the body of a request. Raises ``RequestError`` where it is too large or too slow; the rest isn't read."""
    limit = options.max_body_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(options.read_seconds):
            async for piece in request.stream():
                held.add(piece)
                if len(held.data) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise RequestError(
            f"the body didn't come within {options.read_seconds:g} seconds.", status=408, code="timeout"
        ) from None
    except ClientDisconnect:
        raise RequestError("the client went away before the body was there.") from None


def parse_request(body: bytes, wanted: type[T]) -> T:
    """Return a JSON text as an object of ``wanted``. Raises ``RequestError``, with the field where one is wrong."""
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}.", code="invalid_json") from error
    except UnicodeDecodeError as error:
        raise RequestError("the body is not valid JSON: it isn't UTF-8.", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError("the body nests objects and arrays too deep.", code="invalid_json") from error


def _invalid(said: str) -> RequestError:
    if match := _UNKNOWN.search(said):
        name = _joined(match["path"], match["name"])
        return RequestError(f"Unknown parameter: {name!r:.100}.", param=name[:100], code="unknown_parameter")
    if match := _MISSING.search(said):
        name = _joined(match["path"], match["name"])
        return RequestError(f"Missing required parameter: {name!r}.", param=name, code="missing_required_parameter")
    match = _WRONG.match(said)
    assert match is not None
    name = _joined(match["path"], "")
    if not name:
        return RequestError(f"Invalid body: {match['what']}.", code="invalid_type")
    return RequestError(f"Invalid value for {name!r}: {match['what']}.", param=name, code="invalid_value")


def _joined(path: str | None, name: str) -> str:
    """Return the place of a field, ``messages[0].role``; a path of msgspec begins with ``$``."""
    place = (path or "").removeprefix("$").removeprefix(".").replace("[...]", "[]")
    return ".".join(filter(None, (place, name)))


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body has more than {limit:,} bytes.", status=413, code="request_too_large")
