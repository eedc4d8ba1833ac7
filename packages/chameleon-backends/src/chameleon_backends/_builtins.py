"""The attention backends of this package, registered through the same hook as any plugin."""

from __future__ import annotations

from collections.abc import Iterable

from .attention import AttentionBackendSpec
from .hookspecs import HOOK_API_VERSION, hookimpl


@hookimpl
def chameleon_attention_backends() -> Iterable[AttentionBackendSpec]:
    """Return the built-ins. Each is imported when it is made."""
    return [
        AttentionBackendSpec(
            name="eager",
            factory="chameleon_backends.backends.eager:EagerAttention",
            api_version=HOOK_API_VERSION,
            summary="the readable oracle; also returns attention weights",
        ),
        AttentionBackendSpec(
            name="sdpa",
            factory="chameleon_backends.backends.sdpa:SDPAAttention",
            api_version=HOOK_API_VERSION,
            summary="torch's scaled_dot_product_attention; the default",
        ),
        AttentionBackendSpec(
            name="flash",
            factory="chameleon_backends.backends.flash:FlashAttention",
            api_version=HOOK_API_VERSION,
            summary="the flash-attn package's kernels where it is installed, else torch's flash kernel",
            unsupported="chameleon_backends.backends.flash:why_flash_unsupported",
        ),
        AttentionBackendSpec(
            name="flash_attention_2",
            factory="chameleon_backends.backends.flash_package:load_version_2",
            api_version=HOOK_API_VERSION,
            summary="the kernels of flash-attn 2, and no others",
            unavailable="chameleon_backends.backends.flash_package:why_version_2_absent",
            unsupported="chameleon_backends.backends.flash_package:why_version_2_unsupported",
        ),
        AttentionBackendSpec(
            name="flash_attention_3",
            factory="chameleon_backends.backends.flash_package:load_version_3",
            api_version=HOOK_API_VERSION,
            summary="the kernels of flash-attn 3, and no others",
            unavailable="chameleon_backends.backends.flash_package:why_version_3_absent",
            unsupported="chameleon_backends.backends.flash_package:why_version_3_unsupported",
        ),
        AttentionBackendSpec(
            name="flex",
            factory="chameleon_backends.backends.flex:FlexAttention",
            api_version=HOOK_API_VERSION,
            summary="torch's flex attention, which skips blocks without a visible key",
            unsupported="chameleon_backends.backends.flex:why_flex_unsupported",
        ),
    ]
