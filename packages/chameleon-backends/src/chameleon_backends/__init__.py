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
from .masks import visible_keys
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
    "MissingPackageError",
    "PluginWarning",
    "UnknownPluginError",
    "UnsupportedAttentionError",
    "WeightsBackend",
    "attention_backend_names",
    "get_attention_backend",
    "hookimpl",
    "visible_keys",
    "why_attention_unsupported",
]
