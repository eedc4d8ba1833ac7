"""Helpers for tests: a small image tokenizer, hypothesis strategies, and a conformance suite for vector quantizers.

The small tokenizer needs only the package. The rest needs the extra ``[testing]``, which is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError
from .tokenizers import make_image_tokenizer

if TYPE_CHECKING:
    from .strategies import code_grids, configs, image_processors, latent_grids, pictures
    from .tolerances import TOLERANCES, assert_close
    from .vector_quantizers import VectorQuantizerConformance

__all__ = [
    "TOLERANCES",
    "VectorQuantizerConformance",
    "assert_close",
    "code_grids",
    "configs",
    "image_processors",
    "latent_grids",
    "make_image_tokenizer",
    "pictures",
]

_MODULES = {
    "TOLERANCES": "tolerances",
    "VectorQuantizerConformance": "vector_quantizers",
    "assert_close": "tolerances",
    "code_grids": "strategies",
    "configs": "strategies",
    "image_processors": "strategies",
    "latent_grids": "strategies",
    "pictures": "strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "pytest"):
            raise
        raise MissingPackageError(
            f"{__name__}.{name} needs the package {error.name!r}: pip install './packages/chameleon-vq[testing]'"
        ) from error
    return getattr(module, name)
