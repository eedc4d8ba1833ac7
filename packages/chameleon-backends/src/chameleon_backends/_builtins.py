"""The attention backends of this package, registered through the same hook as anybody's."""

from __future__ import annotations

from collections.abc import Iterable

from .attention import AttentionBackend, AttentionBackendSpec
from .hookspecs import HOOK_API_VERSION, hookimpl


@hookimpl
def chameleon_attention_backends() -> Iterable[AttentionBackendSpec]:
    """The built-ins. Each is imported when it is made."""
    return [
        AttentionBackendSpec(
            name="eager",
            factory=_eager,
            api_version=HOOK_API_VERSION,
            summary="the readable oracle; also returns attention weights",
        ),
        AttentionBackendSpec(
            name="sdpa",
            factory=_sdpa,
            api_version=HOOK_API_VERSION,
            summary="torch's scaled_dot_product_attention; the default",
        ),
    ]


def _eager() -> AttentionBackend:
    from .backends.eager import EagerAttention

    return EagerAttention()


def _sdpa() -> AttentionBackend:
    from .backends.sdpa import SDPAAttention

    return SDPAAttention()
