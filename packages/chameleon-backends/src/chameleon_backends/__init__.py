"""Attention backends and weight quantizers for Chameleon: contracts, built-ins, and hooks for your own.

Start here:

- ``get_attention_backend("sdpa")`` returns an attention backend: ``backend.plan(AttentionSpec(...))`` once in a forward
  pass, then ``backend.attend(query_BTHD, key_BSKD, value_BSKD, prepared, scale=...)`` in each layer.
- ``QuantizedLinear.from_linear(linear, get_weight_quantizer("int4"))`` returns a linear layer with a quantized weight.
- ``attention_backend_names()`` and ``weight_quantizer_names()`` list what is installed; ``why_attention_unsupported``
  and ``why_quantizer_unsupported`` say why one can't serve a request, ``why_attention_unavailable`` and
  ``why_quantizer_unavailable`` why it can't run on this machine.
- ``AttentionBackend`` and ``WeightQuantizer`` are the contracts of your own, which a hook registers (``hookimpl``,
  ``AttentionBackendSpec``, ``WeightQuantizerSpec``).
- ``chameleon_backends.testing`` has the conformance suites that check them.

Every error derives from ``ChameleonBackendsError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _device_backends as _device_backends
from ._moved import moved_modules, moved_names
from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec, AttentionWeightsBackend, without_autocast
from .errors import (
    BrokenPluginError,
    ChameleonBackendsError,
    ConfigError,
    MissingPackageError,
    UnknownPluginError,
    UnsupportedAttentionError,
    UnsupportedWeightError,
)
from .hookspecs import HOOK_API_VERSION, hookimpl
from .masks import KeyRanges, visible_keys, visible_ranges
from .plugins import PluginSpec, PluginWarning
from .quantized_linear import QuantizedLinear
from .registry import (
    DEFAULT_ATTENTION_BACKEND,
    REGISTRY,
    attention_backend_names,
    find_quantizer,
    get_attention_backend,
    get_weight_quantizer,
    weight_quantizer_names,
    why_attention_unavailable,
    why_attention_unsupported,
    why_quantizer_unavailable,
    why_quantizer_unsupported,
)
from .weight_quantizer import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer, WeightQuantizerSpec

__version__: str

__all__ = [
    "DEFAULT_ATTENTION_BACKEND",
    "HOOK_API_VERSION",
    "REGISTRY",
    "AttentionBackend",
    "AttentionBackendSpec",
    "AttentionSpec",
    "AttentionWeightsBackend",
    "BrokenPluginError",
    "ChameleonBackendsError",
    "ConfigError",
    "KeyRanges",
    "LinearSpec",
    "MissingPackageError",
    "PluginSpec",
    "PluginWarning",
    "PreparedWeight",
    "QuantizedLinear",
    "TensorLayout",
    "UnknownPluginError",
    "UnsupportedAttentionError",
    "UnsupportedWeightError",
    "WeightQuantizer",
    "WeightQuantizerSpec",
    "__version__",
    "attention_backend_names",
    "find_quantizer",
    "get_attention_backend",
    "get_weight_quantizer",
    "hookimpl",
    "visible_keys",
    "visible_ranges",
    "weight_quantizer_names",
    "why_attention_unavailable",
    "why_attention_unsupported",
    "why_quantizer_unavailable",
    "why_quantizer_unsupported",
    "without_autocast",
]

moved_modules(
    {
        "chameleon_backends.quantizers.plain": "chameleon_backends.plain_weight",
        "chameleon_backends.testing.laws": "chameleon_backends.testing.strategies",
        "chameleon_backends.weights": "chameleon_backends.weight_quantizer",
    }
)

if not TYPE_CHECKING:
    _moved_name = moved_names(
        __name__,
        {
            "WeightsBackend": "chameleon_backends.attention:AttentionWeightsBackend",
            "weights": "chameleon_backends.weight_quantizer",
        },
    )

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("chameleon-backends")
        return _moved_name(name)
