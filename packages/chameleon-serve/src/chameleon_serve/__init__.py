"""A server for Chameleon: HTTP as clients of OpenAI's API know it, documents with all options, and a page to look at.

- **``serve(ServeOptions(model="emoji"))``** is the command ``chameleon serve emoji``: it runs until it is stopped.
- **``make_app(chameleon, ServeOptions(...))``** is the ASGI application alone, for a server of your own.

The model runs on chameleon-core's engine, whose batch all requests share, or on vLLM's. Importing this package loads
neither torch nor a web framework before one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import make_app
    from .errors import RequestError
    from .options import ServeOptions
    from .server import serve

__version__ = "2026.11.0"

__all__ = ["RequestError", "ServeOptions", "__version__", "make_app", "serve"]

_MODULES = {"RequestError": ".errors", "ServeOptions": ".options", "make_app": ".application", "serve": ".server"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
