"""Registers the attention backend. Listing backends imports this module and no more: it stays light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chameleon_backends import HOOK_API_VERSION, AttentionBackendSpec, AttentionSpec, hookimpl

if TYPE_CHECKING:
    from .blockwise import BlockwiseAttention


def unsupported(request: AttentionSpec | None) -> str | None:
    """Why a request can't be served, in a sentence; of None, why none can be on this machine."""
    if request is not None and request.dropout:
        return "acme-blockwise has no dropout"
    return None


def make() -> BlockwiseAttention:
    """The backend. What is heavy, a kernel library for instance, is imported here."""
    from .blockwise import BlockwiseAttention

    return BlockwiseAttention()


@hookimpl
def chameleon_attention_backends() -> list[AttentionBackendSpec]:
    """What this package adds."""
    return [
        AttentionBackendSpec(
            name="acme-blockwise",
            factory=make,
            api_version=HOOK_API_VERSION,
            summary="attention over blocks of keys, whose scores are never all in memory",
            unsupported=unsupported,
        )
    ]
