"""The plugins that come with this package, through the same hooks as anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _requirements as why_not
from .hookspecs import HOOK_API_VERSION, hookimpl
from .plugins import PluginSpec

if TYPE_CHECKING:
    from .config import ChameleonVQVAEConfig
    from .quantizers import VectorQuantizer
    from .quantizers.codebook import Codebook


@hookimpl
def chameleon_vq_quantizers() -> list[PluginSpec]:
    """Quantizers that come with this package."""
    return [
        PluginSpec(
            name="codebook",
            factory=_codebook,
            api_version=HOOK_API_VERSION,
            summary="the nearest of learned entries, trained by gradient (Chameleon's own)",
            unsupported=why_not.codebook,
        ),
        PluginSpec(
            name="ema",
            factory=_ema,
            api_version=HOOK_API_VERSION,
            summary="the nearest of entries that follow the latents by moving averages",
            unsupported=why_not.ema,
        ),
        PluginSpec(
            name="fsq",
            factory=_fsq,
            api_version=HOOK_API_VERSION,
            summary="each channel rounded to one of a few levels; no codebook",
            unsupported=why_not.fsq,
        ),
        PluginSpec(
            name="lfq",
            factory=_lfq,
            api_version=HOOK_API_VERSION,
            summary="the sign of each channel, kept in use by an entropy penalty; no codebook",
            unsupported=why_not.lfq,
        ),
        PluginSpec(
            name="residual",
            factory=_residual,
            api_version=HOOK_API_VERSION,
            summary="several codes per position, each of a codebook for what those before it left",
            unsupported=why_not.residual,
        ),
        PluginSpec(
            name="vector-quantize-pytorch",
            factory=_vector_quantize_pytorch,
            api_version=HOOK_API_VERSION,
            summary="the quantizers of the package of that name",
            unavailable=why_not.vector_quantize_pytorch_missing,
            unsupported=why_not.vector_quantize_pytorch,
        ),
    ]


def _codebook(config: ChameleonVQVAEConfig) -> Codebook:
    from .quantizers.codebook import Codebook

    return Codebook(
        config.num_embeddings, config.embed_dim, beta=config.beta, initializer_range=config.initializer_range
    )


def _ema(config: ChameleonVQVAEConfig) -> Codebook:
    from .quantizers.ema import EMACodebook

    return EMACodebook(
        config.num_embeddings,
        config.embed_dim,
        initializer_range=config.initializer_range,
        **config.quantizer_options,
    )


def _fsq(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.fsq import FSQ

    return FSQ(config.quantizer_options["levels"])


def _lfq(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.lfq import LFQ

    return LFQ(config.embed_dim, **config.quantizer_options)


def _residual(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.residual import ResidualCodebooks

    options = dict(config.quantizer_options)
    num_quantizers, dropout = options.pop("num_quantizers"), options.pop("quantizer_dropout", 0.0)
    make_level = {"ema": _ema, "gradient": _codebook}[options.pop("update", "ema")]
    of_a_level = config.replace(quantizer_options=options)
    return ResidualCodebooks([make_level(of_a_level) for _ in range(num_quantizers)], quantizer_dropout=dropout)


def _vector_quantize_pytorch(config: ChameleonVQVAEConfig) -> VectorQuantizer:
    from .quantizers.vector_quantize_pytorch import make

    return make(config)
