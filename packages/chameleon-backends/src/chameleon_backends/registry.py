"""The backends that are installed, by name."""

from __future__ import annotations

from . import _builtins, hookspecs
from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec
from .errors import UnsupportedAttentionError
from .plugins import PluginRegistry

ATTENTION_HOOK = "chameleon_attention_backends"
DEFAULT_ATTENTION_BACKEND = "sdpa"

REGISTRY = PluginRegistry(
    hookspecs.PROJECT,
    distribution="chameleon-backends",
    hookspecs=hookspecs,
    kinds={ATTENTION_HOOK: "attention backend"},
    api_version=hookspecs.HOOK_API_VERSION,
    builtins=[_builtins],
    spec_types={ATTENTION_HOOK: AttentionBackendSpec},
)


def get_attention_backend(name: str = DEFAULT_ATTENTION_BACKEND) -> AttentionBackend:
    """Make the attention backend called ``name``.

    Raises ``UnknownPluginError`` or ``BrokenPluginError`` where there is none of that name to use, and
    ``UnsupportedAttentionError`` with its reason where it can't run on this machine.
    """
    spec = REGISTRY.get(ATTENTION_HOOK, name)
    reason = spec.unsupported(None)
    if reason is not None:
        raise UnsupportedAttentionError(f"the attention backend {name!r} can't run here: {reason}")
    backend: AttentionBackend = spec.factory()
    return backend


def attention_backend_names() -> tuple[str, ...]:
    """The names of all usable attention backends, built-ins first, also of those that can't run on this machine."""
    return tuple(registered.spec.name for registered in REGISTRY.registered(ATTENTION_HOOK))


def why_attention_unsupported(name: str, request: AttentionSpec | None = None) -> str | None:
    """Why the backend called ``name`` can't serve a request, or with None can't run on this machine; None if it can.

    Raises ``UnknownPluginError`` or ``BrokenPluginError`` as ``get_attention_backend`` does.
    """
    return REGISTRY.get(ATTENTION_HOOK, name).unsupported(request)
