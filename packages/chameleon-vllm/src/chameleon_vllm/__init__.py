"""Chameleon on vLLM: text, pictures and interleaved documents, with the ids that chameleon-core would write.

- **``VLLMChameleon``** is ``chameleon_core.Chameleon`` with vLLM's engine in this process.
- **``CompletionsClient``** is the same in front of a server of vLLM.

Installing this package registers the model with vLLM, which has none of its own any more. Importing it loads neither
torch nor vLLM before one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chameleon import VLLMChameleon
    from .client import CompletionsClient
    from .errors import EngineError

__version__ = "2026.11.0"

__all__ = ["CompletionsClient", "EngineError", "VLLMChameleon", "__version__"]

_MODULES = {"CompletionsClient": ".client", "EngineError": ".errors", "VLLMChameleon": ".chameleon"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
