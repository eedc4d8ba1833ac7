"""Chameleon: one transformer that reads and writes text and pictures in one stream of tokens (arXiv 2405.09818)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import _public
    from ._public import *  # noqa: F403

    __all__: list[str] = []
    __all__ += _public.__all__
else:
    # The public names are loaded when the first is used: torch takes a second, and `chameleon --help` needs none.
    import importlib

    def __getattr__(name):
        public = importlib.import_module("._public", __name__)
        if name != "__all__" and name not in public.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(public, name)

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
