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


def _ema(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.ema import EMACodebook

    return EMACodebook(
        config.num_embeddings,
        config.embed_dim,
        initializer_range=config.initializer_range,
        **config.quantizer_options,
    )


def _ema_options(config: ChameleonVQVAEConfig | None) -> str | None:
    for name, value in (config.quantizer_options if config else {}).items():
        if name not in ("decay", "smoothing"):
            return f"'ema' has the quantizer_options decay and smoothing, got {name!r}"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            return f"'ema' needs {name} between 0 and 1, got {value!r}"
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
        ),
        PluginSpec(
            name="ema",
            factory=_ema,
            api_version=HOOK_API_VERSION,
            summary="the nearest of entries that follow the latents by moving averages",
            unsupported=_ema_options,
        ),
    ]
