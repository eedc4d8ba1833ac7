"""Finite scalar quantization: each channel of a latent is rounded to one of a few levels, and no codebook is learned.

Source: Mentzer et al. 2023 (arXiv 2309.15505), section 3.1.
Shapes: B pictures, D channels of a latent, h w latent grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .contract import Quantized, at_least_float32, count_codes, straight_through


class FSQ(nn.Module):
    """A channel of L levels is bounded by tanh, and −1…1 is cut into L equal parts; a code is a number of D digits.

    ``levels``: L for each channel, so that there are as many codes as their product. The digit of the first channel
    counts 1, that of the second ``levels[0]``, that of the third ``levels[0] · levels[1]``, and so on.

    Two choices differ from the paper's listing, so that a quantized latent is a latent like any other, and gives its
    code again. A level's latent is the one that tanh brings to the middle of its part,
    ``atanh((2 · digit + 1 − L) / L)``, where the paper hands the bounded value on. And the outermost parts are as wide
    as the others, their middles within the bounds: the paper's bound of (L − 1) / 2 before rounding is L / 2 here.

    As in the paper the gradient goes straight through the rounding and is that of the bound, so that it fades where a
    latent is far outside; and there is no loss.
    """

    codes_per_position = 1
    levels_D: Tensor
    place_values_D: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        place_values = [math.prod(levels[:channel]) for channel in range(len(levels))]
        # They follow from the configuration, and are no weights.
        self.register_buffer("levels_D", torch.tensor(levels), persistent=False)
        self.register_buffer("place_values_D", torch.tensor(place_values), persistent=False)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Latents to their levels."""
        levels_D11 = self.levels_D[:, None, None]
        bounded_BDhw = at_least_float32(latents_BDhw).tanh()
        # Clamped as integers: float32 reaches the bounds themselves, and what is no number must not become a code.
        digits_BDhw = ((bounded_BDhw + 1) / 2 * levels_D11).long().clamp(min=0).minimum(levels_D11 - 1)
        codes_Bhw = (digits_BDhw * self.place_values_D[:, None, None]).sum(dim=1)
        rounded_BDhw = straight_through(bounded_BDhw, self._middles(digits_BDhw, bounded_BDhw.dtype))
        return Quantized(
            latents=rounded_BDhw.atanh().to(latents_BDhw.dtype),
            codes=codes_Bhw,
            loss=bounded_BDhw.new_zeros(()),
            usage=count_codes(codes_Bhw, self.num_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """The levels of codes [B, h, w]: float32 latents [B, D, h, w]."""
        digits_BDhw = codes[:, None] // self.place_values_D[:, None, None] % self.levels_D[:, None, None]
        return self._middles(digits_BDhw, torch.float32).atanh()

    def _middles(self, digits_BDhw: Tensor, dtype: torch.dtype) -> Tensor:
        """The middle of each part of -1…1."""
        levels_D11 = self.levels_D[:, None, None]
        return (2 * digits_BDhw + 1 - levels_D11).to(dtype) / levels_D11
