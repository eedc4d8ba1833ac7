"""What a request must have before anything of it is read: a name of this server, and the key where one is asked for."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import RequestError
from .options import ServeOptions
from .responses import error_response

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/", "/health")
"""The paths that need no key, besides the files of the page."""


class Guard:
    """Answers requests that have no business here, and passes the others on.

    A page of another site can make a browser send requests to this machine under that site's name (DNS rebinding), so
    at a loopback address only the server's own names count.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app = app
        self._key = None if options.api_key is None else options.api_key.encode()
        own = (*LOOPBACK, options.host) if options.is_loopback or options.allowed_hosts else ()
        self._hosts = {name.lower() for name in (*own, *options.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = self._refusal(scope)
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error_response(error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if self._hosts and host_name(headers.get("host", "")) not in self._hosts:
            return RequestError(
                f"this server isn't called {headers.get('host', '')!r:.100}; --allowed-host gives it another name.",
                status=403,
                code="host_not_allowed",
            )
        path = scope["path"]
        if self._key is None or path in OPEN or path.startswith("/page/") or scope["method"] == "OPTIONS":
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(key.strip().encode(), self._key):
            return None
        return RequestError(
            "a key is needed: Authorization: Bearer KEY." if not key else "the key is wrong.",
            status=401,
            code="invalid_api_key",
        )


def host_name(value: str) -> str:
    """Return the name in a header ``Host``, without its port: ``[::1]:8000`` is ``::1``."""
    if value.startswith("["):
        return value[1:].partition("]")[0].lower()
    return value.partition(":")[0].lower()
