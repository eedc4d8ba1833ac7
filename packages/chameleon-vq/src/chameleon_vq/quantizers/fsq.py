"""The quantizer ``fsq``, finite scalar quantization: each channel of a latent is rounded to one of a few levels.

Source: Mentzer et al. 2023 (arXiv 2309.15505), section 3.1.
Shapes: B pictures, D channels of a latent, h w latent grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from .contract import Quantized, at_least_float32, count_codes, straight_through
from .options import QuantizerOptions

Levels = Annotated[
    tuple[Annotated[int, Meta(ge=2)], ...],
    Meta(min_length=1, description="a list of integers ≥ 2", examples=[[8, 5, 5, 5]]),
]


class FSQOptions(QuantizerOptions, frozen=True, kw_only=True):
    """The options of ``fsq``."""

    levels: Levels
    """Number of levels of each channel, each ≥ 2; required. There are as many codes as their product."""


class FSQ(nn.Module):
    """Bounds a channel of L levels by tanh, and cuts −1…1 into L equal parts; a code is a number of D digits.

    ``levels`` has L for each channel; there are as many codes as their product. The digit of the first channel counts
    1, that of the second ``levels[0]``, that of the third ``levels[0] · levels[1]``, and so on. No codebook is learned.

    Two details differ from the paper's listing, so that quantized latents are in the range of latents and give their
    codes again. The latent of a level is the one that tanh maps to the middle of its part,
    ``atanh((2 · digit + 1 − L) / L)``; the paper returns the bounded value. And the outermost parts are as wide as the
    others, with their middles inside the bounds: the paper's bound of (L − 1) / 2 before rounding is L / 2 here.

    As in the paper, the gradient passes straight through the rounding and is that of the bound, so it vanishes if a
    latent is far outside; and there is no loss.
    """

    codes_per_position = 1
    levels_D: Tensor
    place_values_D: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        place_values = [math.prod(levels[:channel]) for channel in range(len(levels))]
        # They follow from the configuration, so they aren't saved.
        self.register_buffer("levels_D", torch.tensor(levels), persistent=False)
        self.register_buffer("place_values_D", torch.tensor(place_values), persistent=False)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Quantize latents [B, D, h, w] to their levels."""
        levels_D11 = self.levels_D[:, None, None]
        bounded_BDhw = at_least_float32(latents_BDhw).tanh()
        # Clamped as integers, because tanh reaches its bounds in float32, and NaN must not become an invalid code.
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
        """Return the levels of codes [B, h, w]: float32 latents [B, D, h, w]."""
        digits_BDhw = codes[:, None] // self.place_values_D[:, None, None] % self.levels_D[:, None, None]
        return self._middles(digits_BDhw, torch.float32).atanh()

    def _middles(self, digits_BDhw: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the middles of the parts of −1…1 that digits number."""
        levels_D11 = self.levels_D[:, None, None]
        return (2 * digits_BDhw + 1 - levels_D11).to(dtype) / levels_D11


def unsupported(config: ChameleonVQVAEConfig) -> str | None:
    """Return why the options don't fit the configuration: a level per channel, as many codes as their product."""
    problem = FSQOptions.problem(config)
    if problem is not None:
        return problem
    levels = FSQOptions.of(config).levels
    if len(levels) != config.embed_dim:
        return (
            f"there are levels for {len(levels)} channels and embed_dim is {config.embed_dim}; expected the same number"
        )
    return wrong_product(levels, config)


def wrong_product(levels: Sequence[int], config: ChameleonVQVAEConfig) -> str | None:
    """Return why levels don't make as many codes as the configuration has, or None."""
    product = math.prod(levels)
    if product == config.num_embeddings:
        return None
    return (
        f"the levels {list(levels)} make {product} codes and num_embeddings is {config.num_embeddings}; expected the "
        "same number"
    )


def make(config: ChameleonVQVAEConfig) -> FSQ:
    """Make the quantizer of a configuration."""
    return FSQ(FSQOptions.of(config).levels)


SPEC = PluginSpec(
    name="fsq",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="each channel rounded to one of a few levels; no codebook",
    unsupported=unsupported,
)
