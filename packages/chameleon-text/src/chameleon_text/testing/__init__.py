"""Helpers for tests: small tokenizers, a stand-in for an image tokenizer, strategies and conformance classes.

The strategies and the conformance classes need the package's extra ``[testing]``, which is imported when one of them is
first used. The others need nothing beyond the package.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError
from .image_tokenizer import FakeImageTokenizer
from .tokenizers import make_tokenizer

if TYPE_CHECKING:
    from .segment_codecs import SegmentCodecConformance
    from .strategies import conversations, documents, permuted_tokenizers, texts, vocabularies, written_segments
    from .templates import TemplateConformance

__all__ = [
    "FakeImageTokenizer",
    "SegmentCodecConformance",
    "TemplateConformance",
    "conversations",
    "documents",
    "make_tokenizer",
    "permuted_tokenizers",
    "texts",
    "vocabularies",
    "written_segments",
]

_MODULES = {
    "SegmentCodecConformance": "segment_codecs",
    "TemplateConformance": "templates",
    "conversations": "strategies",
    "documents": "strategies",
    "permuted_tokenizers": "strategies",
    "texts": "strategies",
    "vocabularies": "strategies",
    "written_segments": "strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_MODULES[name]}"
    try:
        if module not in sys.modules:
            import pytest

            # So that a failing test shows the values that it compared.
            pytest.register_assert_rewrite(module)
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "pytest"):
            raise
        raise MissingPackageError(
            f"{__name__}.{name} needs the package {error.name!r}: pip install './packages/chameleon-text[testing]'"
        ) from error
