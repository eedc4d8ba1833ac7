"""Registers the vector quantizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chameleon_vq import HOOK_API_VERSION, ChameleonVQVAEConfig, PluginSpec, hookimpl

if TYPE_CHECKING:
    from .ternary import TernaryQuantizer


def unsupported(config: ChameleonVQVAEConfig) -> str | None:
    """Return why a configuration can't be served, in a sentence; None where it can."""
    if config.quantizer_options:
        return f"acme-ternary has no quantizer_options, got {sorted(config.quantizer_options)}"
    codes = 3**config.embed_dim
    if config.num_embeddings != codes:
        return f"embed_dim {config.embed_dim} makes {codes} codes: num_embeddings is {config.num_embeddings}"
    return None


def make(config: ChameleonVQVAEConfig) -> TernaryQuantizer:
    """Return the quantizer of a configuration."""
    from .ternary import TernaryQuantizer

    return TernaryQuantizer(config.embed_dim)


@hookimpl
def chameleon_vq_quantizers() -> list[PluginSpec]:
    """What this package adds."""
    return [
        PluginSpec(
            name="acme-ternary",
            factory=make,
            api_version=HOOK_API_VERSION,
            summary="each channel is rounded to -1, 0 or 1; nothing is learned",
            unsupported=unsupported,
        )
    ]
