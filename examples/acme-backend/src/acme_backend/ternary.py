"""A vector quantizer without a codebook: each channel becomes -1, 0 or 1.

Shapes: B pictures, D width of a latent, h w latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chameleon_vq import Quantized


class TernaryQuantizer(nn.Module):
    """The contract of ``chameleon_vq.VectorQuantizer``: a code is a number in base 3 with a digit for each channel.

    The loss pulls latents to their rounded values, and the gradient passes through the rounding unchanged.
    """

    codes_per_position = 1
    place_values_D: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_codes = 3**channels
        # Follows from the configuration, so that no checkpoint needs it.
        self.register_buffer("place_values_D", 3 ** torch.arange(channels), persistent=False)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Round latents to the nearest of -1, 0 and 1."""
        rounded_BDhw = latents_BDhw.detach().nan_to_num().clamp(-1, 1).round()
        codes_Bhw = ((rounded_BDhw.long() + 1) * self.place_values_D[:, None, None]).sum(dim=1)
        return Quantized(
            latents=rounded_BDhw + (latents_BDhw - latents_BDhw.detach()),
            codes=codes_Bhw,
            loss=(latents_BDhw - rounded_BDhw).square().mean(),
            usage=torch.bincount(codes_Bhw.flatten(), minlength=self.num_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the latents of codes [B, h, w]: float32 [B, D, h, w]."""
        digits_BDhw = codes[:, None] // self.place_values_D[:, None, None] % 3
        return (digits_BDhw - 1).float()
