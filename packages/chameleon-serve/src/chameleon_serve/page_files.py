"""The files of the page, as they lie in ``page/``: one folder, no build step, nothing from the network."""

from __future__ import annotations

import hashlib
import importlib.resources
import re

from starlette.requests import Request
from starlette.responses import Response

from .errors import RequestError

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "webp": "image/webp",
    "woff2": "font/woff2",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


async def page_file(request: Request) -> Response:
    """Return a file of the page: ``index.html`` at ``/``, the others by name."""
    name = request.path_params.get("name", "index.html")
    kind = TYPES.get(name.rpartition(".")[2])
    content = None if kind is None or not _NAME.fullmatch(name) else read_file(name)
    if content is None:
        raise RequestError(f"there is no page {name!r:.100} here.", status=404, code="not_found")
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


def read_file(name: str) -> bytes | None:
    """Return the content of a file in ``page/``; None where there is none of that name."""
    try:
        return (importlib.resources.files(__package__) / "page" / name).read_bytes()
    except OSError:
        return None
