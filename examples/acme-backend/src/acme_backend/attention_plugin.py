"""Registers the attention backend. Listing backends imports this module only, so it stays light."""

from __future__ import annotations

from chameleon_backends import HOOK_API_VERSION, AttentionBackendSpec, AttentionSpec, hookimpl


def unsupported(request: AttentionSpec) -> str | None:
    """Return why a request can't be served, in a sentence; None where it can."""
    return "acme-blockwise has no dropout" if request.dropout else None


@hookimpl
def chameleon_attention_backends() -> list[AttentionBackendSpec]:
    """What this package adds."""
    return [
        AttentionBackendSpec(
            name="acme-blockwise",
            factory="acme_backend.blockwise:BlockwiseAttention",  # imported when it is asked for
            api_version=HOOK_API_VERSION,
            summary="attention over blocks of keys, whose scores are never all in memory",
            unsupported=unsupported,
        )
    ]
