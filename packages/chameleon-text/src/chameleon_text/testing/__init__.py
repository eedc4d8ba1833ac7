"""Helpers for tests: small tokenizers, a stand-in for an image tokenizer, strategies, a conformance class.

The tokenizers need nothing beyond the package. The strategies and the conformance class need its extra
``[testing]``, which is imported when one of them is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .image_tokenizer import FakeImageTokenizer
from .tokenizers import make_tokenizer

if TYPE_CHECKING:
    from .conformance import SegmentCodecConformance
    from .strategies import documents, permuted_tokenizers, texts, vocabularies

__all__ = [
    "FakeImageTokenizer",
    "SegmentCodecConformance",
    "documents",
    "make_tokenizer",
    "permuted_tokenizers",
    "texts",
    "vocabularies",
]

_MODULES = {
    "SegmentCodecConformance": "conformance",
    "documents": "strategies",
    "permuted_tokenizers": "strategies",
    "texts": "strategies",
    "vocabularies": "strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
