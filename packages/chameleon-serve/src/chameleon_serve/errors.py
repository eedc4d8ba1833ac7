"""What a request is refused with, in the form of OpenAI's API, which clients know."""

from __future__ import annotations

from typing import Any

from chameleon_core import ChameleonCoreError, ContextLengthError
from chameleon_core.errors import EngineFullError, WorkerError
from chameleon_text import ChameleonTextError
from chameleon_vq import ChameleonVQError

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
OURS = (ChameleonCoreError, ChameleonTextError, ChameleonVQError)
"""The errors that say what was wrong with a request."""
FAILED = "the server failed to answer this request; its log says why."
"""What a client is told of an error that isn't its own."""


class RequestError(ChameleonCoreError, ValueError):
    """A request can't be met. ``status`` is that of HTTP, ``param`` the field that is wrong, ``code`` a word for it.

    ``retry_after`` are the seconds after which the request may be sent again, None where that is no use.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer that it is."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"  # so that the rest of the body isn't read
        return headers

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON object."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _KINDS.get(self.status, default)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def as_request_error(error: Exception, *, has_begun: bool = False) -> RequestError:
    """Return what a client is told of an error: its own words where the request was at fault.

    An error after the request ``has_begun`` to run isn't the client's.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineFullError):
        return RequestError(str(error), status=429, code="queue_full", retry_after=1)
    if isinstance(error, WorkerError):
        return RequestError("the model doesn't run any more; see the server's log.", status=503, code="engine_ended")
    if isinstance(error, OURS) and not has_begun:
        code = "context_length_exceeded" if isinstance(error, ContextLengthError) else None
        return RequestError(str(error), code=code)
    return RequestError(FAILED, status=500, code="internal_error")
