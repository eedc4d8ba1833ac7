"""Attention backends and weight quantizers for Chameleon: contracts, built-ins, and a registry that others extend."""

from __future__ import annotations

from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec, WeightsBackend
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
from .weights import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer, WeightQuantizerSpec

__all__ = [
    "DEFAULT_ATTENTION_BACKEND",
    "HOOK_API_VERSION",
    "REGISTRY",
    "AttentionBackend",
    "AttentionBackendSpec",
    "AttentionSpec",
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
    "WeightsBackend",
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
]
