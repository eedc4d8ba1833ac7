"""The attention backends of this package, registered through the same hook as anybody's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from .attention import AttentionBackend, AttentionBackendSpec, AttentionSpec
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
        AttentionBackendSpec(
            name="flash",
            factory=_flash,
            api_version=HOOK_API_VERSION,
            summary="the flash-attn package's kernels where it is installed, else torch's flash kernel",
            unsupported=_why_flash_unsupported,
        ),
        AttentionBackendSpec(
            name="flash_attention_2",
            factory=partial(_flash_package, 2),
            api_version=HOOK_API_VERSION,
            summary="the kernels of flash-attn 2, and no others",
            unsupported=partial(_why_flash_package_unsupported, 2),
        ),
        AttentionBackendSpec(
            name="flash_attention_3",
            factory=partial(_flash_package, 3),
            api_version=HOOK_API_VERSION,
            summary="the kernels of flash-attn 3, and no others",
            unsupported=partial(_why_flash_package_unsupported, 3),
        ),
        AttentionBackendSpec(
            name="flex",
            factory=_flex,
            api_version=HOOK_API_VERSION,
            summary="torch's flex attention, which skips blocks of keys that nobody sees",
            unsupported=_why_flex_unsupported,
        ),
    ]


def _eager() -> AttentionBackend:
    from .backends.eager import EagerAttention

    return EagerAttention()


def _sdpa() -> AttentionBackend:
    from .backends.sdpa import SDPAAttention

    return SDPAAttention()


def _flash() -> AttentionBackend:
    from .backends.flash import FlashAttention

    return FlashAttention()


def _why_flash_unsupported(request: AttentionSpec | None) -> str | None:
    from .backends.flash import why_flash_unsupported

    return why_flash_unsupported(request)


def _flash_package(version: int) -> AttentionBackend:
    from .backends.flash_package import load_package

    return load_package(version)


def _why_flash_package_unsupported(version: int, request: AttentionSpec | None) -> str | None:
    from .backends.flash_package import why_version_unsupported

    return why_version_unsupported(version, request)


def _flex() -> AttentionBackend:
    from .backends.flex import FlexAttention

    return FlexAttention()


def _why_flex_unsupported(request: AttentionSpec | None) -> str | None:
    if request is None:  # a listing asks this, which shouldn't load torch's flex attention
        return None
    from .backends.flex import why_flex_unsupported

    return why_flex_unsupported(request)
