"""Attention backends for Chameleon: the contract, the built-ins, and a registry that others extend."""

from __future__ import annotations

from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec, WeightsBackend
from .errors import (
    BrokenPluginError,
    ChameleonBackendsError,
    ConfigError,
    MissingPackageError,
    UnknownPluginError,
    UnsupportedAttentionError,
)
from .hookspecs import HOOK_API_VERSION, hookimpl
from .masks import KeyRanges, visible_keys, visible_ranges
from .plugins import PluginWarning
from .registry import (
    DEFAULT_ATTENTION_BACKEND,
    REGISTRY,
    attention_backend_names,
    get_attention_backend,
    why_attention_unsupported,
)

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
    "MissingPackageError",
    "PluginWarning",
    "UnknownPluginError",
    "UnsupportedAttentionError",
    "WeightsBackend",
    "attention_backend_names",
    "get_attention_backend",
    "hookimpl",
    "visible_keys",
    "visible_ranges",
    "why_attention_unsupported",
]
