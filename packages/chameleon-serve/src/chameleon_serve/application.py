"""The application: its routes, and the way of a request through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chameleon_core import Chameleon

from .answers import Answer
from .body import Bodies, Held, read_request
from .calls import Call, Ready, prepared
from .chat import ChatPresenter, chat_call
from .description import described
from .documents import PartsReader
from .errors import FAILED, OURS, RequestError, as_request_error
from .guard import Guard
from .images import ImagePresenter, image_call
from .metrics import Metrics
from .native import DocumentPresenter, document_call, tokens_of
from .options import ServeOptions
from .outbox import Outbox
from .page_files import page_file
from .requests import Body, ChatRequest, DocumentRequest, EditRequest, ImageRequest, TokensRequest
from .responses import ClientGoneError, error_response, json_response, stream_response, unless_gone
from .runner import Presenter, Runner

BODIES = 8
"""How many bodies of the largest size are held at a time, until their requests are prepared."""
CLIENT_GONE = 499
"""The status that nobody reads, for the counters."""


def make_app(chameleon: Chameleon, options: ServeOptions) -> Starlette:
    """Return the ASGI application that serves a pipeline.

    ``chameleon`` is one that threads may share: ``SharedChameleon`` or ``FrontChameleon`` of chameleon_core.serving, or
    that of chameleon-vllm. The application's ``state.runner`` runs the requests; closing its lifespan stops them.
    """
    served = Served(chameleon, options)
    routes = [
        Route("/", page_file),
        Route("/page/{name}", page_file),
        Route("/health", served.health),
        Route("/metrics", served.metrics_text),
        Route("/v1/models", served.models),
        Route("/v1/models/{name:path}", served.model),
        Route("/v1/documents", served.documents, methods=["POST"]),
        Route("/v1/pictures/edits", served.edits, methods=["POST"]),
        Route("/v1/pictures/tokens", served.tokens, methods=["POST"]),
        Route("/v1/chat/completions", served.chat, methods=["POST"]),
        Route("/v1/images/generations", served.images, methods=["POST"]),
    ]
    cors: dict[str, Any] = {
        "allow_origins": list(options.cors_origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
    }
    middleware = [
        Middleware(Counted, metrics=served.metrics),
        *([Middleware(CORSMiddleware, **cors)] if options.cors_origins else []),
        Middleware(Guard, options=options),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            served.runner.stop_all()
            await asyncio.to_thread(served.runner.close)

    app = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            **dict.fromkeys(OURS, _refused),
            HTTPException: _no_route,
            ClientGoneError: _unread,
            Exception: _failed,
        },
    )
    app.state.runner = served.runner
    return app


class Served:
    """The endpoints of one model."""

    def __init__(self, chameleon: Chameleon, options: ServeOptions) -> None:
        self.chameleon = chameleon
        self.options = options
        self.metrics = Metrics()
        self.runner = Runner(chameleon, options, self.metrics)
        self._bodies = Bodies(BODIES * options.max_body_bytes)
        self.description = described(chameleon, options)

    async def health(self, _: Request) -> Response:
        """Say whether requests are taken, and can be answered."""
        status = "stopping" if self.runner.gate.is_closed else "ok"
        if not getattr(self.chameleon, "is_alive", True):
            status = "failed"
        return json_response({"status": status}, 200 if status == "ok" else 503)

    async def metrics_text(self, _: Request) -> Response:
        """Return the counters."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, _: Request) -> Response:
        """List the only model."""
        return json_response({"object": "list", "data": [self.description]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        self._check_model(request.path_params["name"], 404)
        return json_response(self.description)

    async def documents(self, request: Request) -> Response:
        """Continue documents."""
        with self._bodies.hold() as held:
            body = await read_request(request, DocumentRequest, self.options, held)
            return await self._documents(request, body, held)

    async def edits(self, request: Request) -> Response:
        """Draw a part of a picture anew."""
        with self._bodies.hold() as held:
            body = await read_request(request, EditRequest, self.options, held)
            return await self._documents(request, body, held)

    async def tokens(self, request: Request) -> Response:
        """Return the tokens of a picture."""
        with self._bodies.hold() as held:
            body = await read_request(request, TokensRequest, self.options, held)
            self._check_model(body.model)
            return json_response(await self.runner.read(lambda: tokens_of(body, self._reader(), self.chameleon)))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        with self._bodies.hold() as held:
            body = await read_request(request, ChatRequest, self.options, held)
            answer = Answer(self.options.model_name, "chatcmpl")
            return await self._answered(
                request,
                body,
                held,
                lambda: chat_call(body, self._reader()),
                lambda ready: ChatPresenter(ready, answer, body, self.chameleon.layout),
                done="[DONE]",
            )

    async def images(self, request: Request) -> Response:
        """Draw pictures."""
        with self._bodies.hold() as held:
            body = await read_request(request, ImageRequest, self.options, held)
            answer = Answer(self.options.model_name, "img")
            layout = self.chameleon.layout
            return await self._answered(
                request,
                body,
                held,
                lambda: image_call(body, self._reader(), layout),
                lambda ready: ImagePresenter(ready, answer, body, layout),
                done="[DONE]",
            )

    async def _documents(self, request: Request, body: DocumentRequest, held: Held) -> Response:
        answer = Answer(self.options.model_name, "doc")
        return await self._answered(
            request,
            body,
            held,
            lambda: document_call(body, self._reader(), self.options),
            lambda ready: DocumentPresenter(ready, answer, self.chameleon.layout, streams=bool(body.stream)),
        )

    async def _answered(
        self,
        request: Request,
        body: Body,
        held: Held,
        call: Callable[[], Call],
        present: Callable[[Ready], Presenter],
        *,
        done: str | None = None,
    ) -> Response:
        """Run a request, and return its answer or the stream of it."""
        arrived = time.monotonic()
        self._check_model(body.model)
        most = self.options.max_rows_per_request
        if (body.n or 1) > most:
            raise RequestError(f"n is {body.n}; this server writes at most {most}.", param="n", code="invalid_value")
        client = f"{request.client.host if request.client else ''} {body.user or ''}"

        async def begun() -> Outbox:
            self.runner.gate.check()
            ready = await self.runner.read(lambda: prepared(self.chameleon, call(), self.options))
            presenter = present(ready)
            held.release()
            body.forget()
            return await self.runner.start(ready, presenter, client, arrived)

        if body.stream:
            return stream_response(await unless_gone(request, begun()), self.options, done=done)

        async def whole() -> Any:
            outbox = await begun()
            try:
                return await outbox.last()
            finally:
                outbox.stop()

        return json_response(await unless_gone(request, whole()))

    def _reader(self) -> PartsReader:
        return PartsReader(self.options, self.chameleon.model.config.context_length)

    def _check_model(self, name: str | None, status: int = 404) -> None:
        if name is not None and name != self.options.model_name:
            raise RequestError(
                f"there is no model {name!r:.100} here, only {self.options.model_name!r}.",
                status=status,
                param="model",
                code="model_not_found",
            )


class Counted:
    """Counts answers by endpoint and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                # Names of endpoints, because any other path would be a counter of its own.
                endpoint = getattr(scope.get("endpoint"), "__name__", "none")
                self._metrics.answers.labels(endpoint, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)


async def _refused(_: Request, error: Exception) -> Response:
    return error_response(as_request_error(error))


async def _unread(_: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _failed(_: Request, _error: Exception) -> Response:
    return error_response(RequestError(FAILED, status=500, code="internal_error"))


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    said = {404: f"there is no {request.url.path!r:.100} here.", 405: f"{request.method} isn't what this path takes."}
    found = RequestError(said.get(status, str(getattr(error, "detail", error))), status=status)
    response = error_response(found)
    response.headers.update(getattr(error, "headers", None) or {})
    return response
