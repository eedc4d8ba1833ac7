"""Chameleon's quantizer: the nearest entry of a learned codebook.

Shapes: B pictures, D width of a latent, h w latent grid, P = B·h·w positions, N entries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .contract import Quantized, at_least_float32, count_codes, straight_through, without_autocast

POSITIONS_AT_ONCE = 4096
"""Bounds the table of distances: 4,096 positions and 8,192 entries are 128 MiB in float32."""


class Codebook(nn.Module):
    """Each latent becomes the entry nearest by squared distance; of equally near ones the first.

    The loss is the published one (van den Oord et al. 2017, eq. 3, with taming-transformers' placement of beta):
    ``mean((sg(q) - z)²) + beta · mean((q - sg(z))²)``, sg stopping the gradient. The gradient of the quantized latents
    goes straight through to the input.
    """

    codes_per_position = 1

    def __init__(self, num_codes: int, width: int, *, beta: float = 0.25, initializer_range: float = 0.02) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.beta = beta
        self.embedding = nn.Embedding(num_codes, width)
        nn.init.normal_(self.embedding.weight, std=initializer_range)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Latents to their nearest entries."""
        return self.quantize(latents_BDhw, self.nearest(latents_BDhw))

    def quantize(self, latents_BDhw: Tensor, codes_Bhw: Tensor) -> Quantized:
        """What ``forward`` gives, for codes that ``nearest`` chose."""
        entries_BDhw = self.lookup(codes_Bhw)
        commitment = torch.mean((entries_BDhw.detach() - latents_BDhw) ** 2)
        codebook = torch.mean((entries_BDhw - latents_BDhw.detach()) ** 2)
        return Quantized(
            latents=straight_through(latents_BDhw, entries_BDhw),
            codes=codes_Bhw,
            loss=commitment + self.beta * codebook,
            usage=count_codes(codes_Bhw, self.num_codes),
        )

    @torch.no_grad()
    @without_autocast
    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """The code of each latent: int64 [B, h, w]."""
        batch, width, height, columns = latents_BDhw.shape
        latents_PD = latents_BDhw.permute(0, 2, 3, 1).reshape(-1, width)
        # |z - e|² = |z|² - 2 z·e + |e|², of which |z|² is the same for every entry.
        entries_DN = at_least_float32(self.embedding.weight).T
        norms_N = entries_DN.square().sum(dim=0)
        codes = [
            torch.addmm(norms_N, part_PD.to(norms_N.dtype), entries_DN, alpha=-2).argmin(dim=1)
            for part_PD in torch.split(latents_PD, POSITIONS_AT_ONCE)
        ]
        return torch.cat(codes).view(batch, height, columns)

    def lookup(self, codes: Tensor) -> Tensor:
        """The entries of codes [B, h, w]: latents [B, D, h, w]."""
        entries_BhwD: Tensor = self.embedding(codes)
        return entries_BhwD.permute(0, 3, 1, 2)
