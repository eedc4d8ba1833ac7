"""The quantizer ``ema``: a codebook that follows the latents by moving averages instead of gradients.

Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1, with Laplace smoothing of the counts.
Shapes: B pictures, D width of a latent, h w latent grid, M = B·h·w positions, Z entries (N in the names of the buffers,
which saved weights have), J entries to replace.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from .codebook import Codebook
from .contract import Quantized, count_codes, straight_through
from .options import QuantizerOptions
from .over_ranks import add_over_ranks

Fraction = Annotated[float, Meta(gt=0, lt=1, description="a number > 0 and < 1")]


class EMAOptions(QuantizerOptions, frozen=True, kw_only=True):
    """The options of ``ema``."""

    decay: Fraction = 0.99
    """Share of an entry's statistics that a step keeps; > 0 and < 1, by default 0.99."""
    smoothing: Fraction = 1e-5
    """Pseudo-count of the Laplace smoothing, which keeps unused entries finite; > 0 and < 1, by default 1e-5."""


class EMACodebook(Codebook):
    """A codebook whose entries are moving averages of the latents that chose them.

    In training mode ``forward`` updates the entries after choosing codes with the old ones. If n latents with the sum
    s chose an entry, its count becomes ``decay · count + (1 - decay) · n``, its sum ``decay · sum + (1 - decay) · s``,
    and the entry sum / count. The loss is only the commitment, ``mean((sg(q) - z)²)``, where sg stops the gradient.

    ``embedding.weight`` has the entries, as in ``Codebook``, which can therefore load them. With ``over_ranks`` n and s
    are those of all processes together; see ``OverRanks``.
    """

    over_ranks = False
    count_N: Tensor
    sum_ND: Tensor

    def __init__(
        self,
        num_codes: int,
        width: int,
        *,
        decay: float = 0.99,
        smoothing: float = 1e-5,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__(num_codes, width, initializer_range=initializer_range)
        self.decay = decay
        self.smoothing = smoothing
        self.embedding.weight.requires_grad_(False)
        self.register_buffer("count_N", torch.ones(num_codes))
        self.register_buffer("sum_ND", self.embedding.weight.detach().clone())

    def quantize(self, latents_BDhw: Tensor, codes_Bhw: Tensor) -> Quantized:
        """Return what ``forward`` returns, given the codes [B, h, w]; in training mode, update the entries."""
        entries_BDhw = self.lookup(codes_Bhw)
        usage_Z = count_codes(codes_Bhw, self.num_codes)
        if self.training:
            self._move(latents_BDhw.detach(), codes_Bhw, usage_Z)
        return Quantized(
            latents=straight_through(latents_BDhw, entries_BDhw),
            codes=codes_Bhw,
            loss=torch.mean((entries_BDhw - latents_BDhw) ** 2),
            usage=usage_Z,
        )

    @torch.no_grad()
    def restart(self, codes_J: Tensor, entries_JD: Tensor) -> None:
        """Set the entries [J, D] of some codes [J], and reset the statistics of the old ones."""
        self.embedding.weight[codes_J] = entries_JD.to(self.embedding.weight.dtype)
        self.count_N[codes_J] = 1.0
        self.sum_ND[codes_J] = entries_JD.to(self.sum_ND.dtype)

    @torch.no_grad()
    def _move(self, latents_BDhw: Tensor, codes_Bhw: Tensor, usage_Z: Tensor) -> None:
        latents_MD = latents_BDhw.permute(0, 2, 3, 1).reshape(-1, latents_BDhw.shape[1]).to(self.sum_ND.dtype)
        sums_ZD = torch.zeros_like(self.sum_ND).index_add_(0, codes_Bhw.reshape(-1), latents_MD)
        if self.over_ranks:
            usage_Z, sums_ZD = add_over_ranks(usage_Z), add_over_ranks(sums_ZD)
        self.count_N.lerp_(usage_Z.to(self.count_N.dtype), 1 - self.decay)
        self.sum_ND.lerp_(sums_ZD, 1 - self.decay)
        # Smoothed so that the count of an unused code doesn't approach zero.
        total = self.count_N.sum()
        smoothed_Z = (self.count_N + self.smoothing) / (total + self.num_codes * self.smoothing) * total
        self.embedding.weight.copy_(self.sum_ND / smoothed_Z[:, None])


def make(config: ChameleonVQVAEConfig) -> EMACodebook:
    """Make the codebook of a configuration."""
    options = EMAOptions.of(config)
    return EMACodebook(
        config.num_embeddings,
        config.embed_dim,
        decay=options.decay,
        smoothing=options.smoothing,
        initializer_range=config.initializer_range,
    )


SPEC = PluginSpec(
    name="ema",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="the nearest of entries that follow the latents by moving averages",
    unsupported=EMAOptions.problem,
)
