"""The plugins that come with this package, through the same hooks as anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hookspecs import HOOK_API_VERSION, hookimpl
from .plugins import PluginSpec

if TYPE_CHECKING:
    from .config import ChameleonVQVAEConfig
    from .quantizers import VectorQuantizer


def _codebook(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.codebook import Codebook

    return Codebook(
        config.num_embeddings, config.embed_dim, beta=config.beta, initializer_range=config.initializer_range
    )


def _codebook_options(config: ChameleonVQVAEConfig | None) -> str | None:
    if config is not None and config.quantizer_options:
        return f"'codebook' has no quantizer_options, got {sorted(config.quantizer_options)}"
    return None


@hookimpl
def chameleon_vq_quantizers() -> list[PluginSpec]:
    """Quantizers that come with this package."""
    return [
        PluginSpec(
            name="codebook",
            factory=_codebook,
            api_version=HOOK_API_VERSION,
            summary="the nearest of learned entries, trained by gradient (Chameleon's own)",
            unsupported=_codebook_options,
        )
    ]
