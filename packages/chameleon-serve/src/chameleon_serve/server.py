"""The command ``chameleon serve``: the model loaded, a socket, and a server that ends what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from sse_starlette.sse import AppStatus

from chameleon_core import Chameleon, ConfigError
from chameleon_core.serving import FrontChameleon
from chameleon_core.threads import default_threads, threads_set_to

from .application import make_app
from .loading import load_pipeline
from .options import ServeOptions
from .runner import Runner

BACKLOG = 4096
"""How many connections the system holds until they are accepted."""


def serve(
    options: ServeOptions, *, chameleon: Chameleon | None = None, ready: Callable[[str], None] | None = None
) -> None:
    """Serve a model until the process is told to stop (Ctrl-C, SIGTERM); what runs is finished before.

    ``chameleon`` is a pipeline that is loaded already. ``ready`` is called with the address once requests are taken.
    Raises ``ConfigError`` where the port is taken, and what loading raises.
    """
    listening = bind(options)  # first, because loading takes long
    try:
        with contextlib.ExitStack() as stack:
            pipeline = stack.enter_context(_loaded(options)) if chameleon is None else chameleon
            app = make_app(pipeline, options)
            server = Server(uvicorn_config(app, options), app.state.runner, lambda: _tell(ready, options, listening))
            stack.enter_context(threads_set_to(options.threads or default_threads(*_size(pipeline))))
            stack.enter_context(frozen_garbage())
            server.run(sockets=[listening])
    finally:
        listening.close()


@contextlib.contextmanager
def _loaded(options: ServeOptions) -> Iterator[Chameleon]:
    """Load a pipeline, and end what it has outside of this process."""
    pipeline = load_pipeline(options)
    try:
        yield pipeline
    finally:
        if isinstance(pipeline, FrontChameleon):
            pipeline.close()


@contextlib.contextmanager
def frozen_garbage() -> Iterator[None]:
    """Let Python's garbage collector look at new objects alone, of which requests leave cycles behind.

    A full collection waits until a quarter of all objects are new, and the model's and its libraries' are a million.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def bind(options: ServeOptions) -> socket.socket:
    """Return the socket that the server listens at. Raises ``ConfigError``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            stack.pop_all()
    except OSError as error:
        raise ConfigError(
            f"{options.host}:{options.port} can't be listened at: {error.strerror or error}. Choose another --port, "
            "or 0 for a free one."
        ) from error
    return listening


def uvicorn_config(app: Any, options: ServeOptions) -> uvicorn.Config:
    """Return how uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http="h11",  # in Python alone: few requests, each of them long
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(options.stop_seconds)),
        proxy_headers=False,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which lets nobody in once it is told to stop."""

    def __init__(self, config: uvicorn.Config, runner: Runner, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._runner = runner
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests, and say so."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Send away those that wait; those that run are finished."""
        logging.getLogger("chameleon_serve").info("stopping")
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._runner.gate.close)
        # sse-starlette replaces uvicorn's method by one that ends every stream at once, in later servers, too.
        assert AppStatus.original_handler is not None
        AppStatus.original_handler(self, sig, frame)


def _size(chameleon: Chameleon) -> tuple[int, str]:
    """Return the bytes of the weights, and the device that they are on."""
    if isinstance(chameleon, FrontChameleon):
        return chameleon.shared.facts.num_bytes, chameleon.shared.facts.device
    footprint = getattr(chameleon.model, "get_memory_footprint", None)
    return (footprint() if callable(footprint) else 2**62), str(chameleon.model.device)


def _tell(ready: Callable[[str], None] | None, options: ServeOptions, listening: socket.socket) -> None:
    if ready is not None:
        host = f"[{options.host}]" if ":" in options.host else options.host
        ready(f"http://{host}:{listening.getsockname()[1]}")
