"""A codebook that follows the latents by moving averages instead of gradients.

Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1, with Laplace smoothing of the counts.
Shapes: B pictures, D width of a latent, h w latent grid, P = B·h·w positions, N entries, M entries to replace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codebook import Codebook
from .contract import Quantized, count_codes, straight_through


class EMACodebook(Codebook):
    """Each entry is the moving average of the latents that chose it.

    In training mode ``forward`` moves the entries, after it has chosen by the old ones: with n latents of sum s
    choosing an entry, its count becomes ``decay · count + (1 - decay) · n``, its sum ``decay · sum + (1 - decay) · s``,
    and the entry sum / count. The loss is the commitment alone, ``mean((sg(q) - z)²)``.

    ``embedding.weight`` holds the entries, as in ``Codebook``, so that the trained entries serve there unchanged.
    """

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
        """What ``forward`` gives, for codes that ``nearest`` chose; in training mode the entries then move."""
        entries_BDhw = self.lookup(codes_Bhw)
        usage_N = count_codes(codes_Bhw, self.num_codes)
        if self.training:
            self._move(latents_BDhw.detach(), codes_Bhw, usage_N)
        return Quantized(
            latents=straight_through(latents_BDhw, entries_BDhw),
            codes=codes_Bhw,
            loss=torch.mean((entries_BDhw - latents_BDhw) ** 2),
            usage=usage_N,
        )

    @torch.no_grad()
    def restart(self, codes_M: Tensor, entries_MD: Tensor) -> None:
        """Give some codes new entries and forget what chose the old ones."""
        self.embedding.weight[codes_M] = entries_MD.to(self.embedding.weight.dtype)
        self.count_N[codes_M] = 1.0
        self.sum_ND[codes_M] = entries_MD.to(self.sum_ND.dtype)

    @torch.no_grad()
    def _move(self, latents_BDhw: Tensor, codes_Bhw: Tensor, usage_N: Tensor) -> None:
        latents_PD = latents_BDhw.permute(0, 2, 3, 1).reshape(-1, latents_BDhw.shape[1]).to(self.sum_ND.dtype)
        sums_ND = torch.zeros_like(self.sum_ND).index_add_(0, codes_Bhw.reshape(-1), latents_PD)
        self.count_N.lerp_(usage_N.to(self.count_N.dtype), 1 - self.decay)
        self.sum_ND.lerp_(sums_ND, 1 - self.decay)
        # Smoothed so that the count of a code that nothing chooses never comes to divide by zero.
        total = self.count_N.sum()
        smoothed_N = (self.count_N + self.smoothing) / (total + self.num_codes * self.smoothing) * total
        self.embedding.weight.copy_(self.sum_ND / smoothed_N[:, None])
