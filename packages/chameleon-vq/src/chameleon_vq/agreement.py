"""Compare the codes of two tokenizers: what a change of dtype, device or weights does to them.

Shapes: B pictures, D width of a latent, h w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import CodesError
from .pictures import Picture
from .tokenizer import ImageTokenizer


@dataclass(frozen=True, slots=True)
class CodeComparison:
    """What ``compare_codes`` returns."""

    positions: int
    """Number of positions compared."""
    margins: Tensor
    """For each position that differs, how much nearer the first tokenizer's code was: float32 [differing].

    It is the latent's distance from the boundary between the two entries, divided by the distance of the entries: 0 is
    a tie, 0.5 is a latent on the first tokenizer's entry. A quantizer that doesn't choose the nearest entry (``fsq``,
    ``residual``) has its ties elsewhere, so its margins mean little.
    """

    @property
    def differing(self) -> int:
        """Number of positions whose codes differ."""
        return len(self.margins)

    @property
    def largest_margin(self) -> float:
        """The largest of the margins; 0 if nothing differs."""
        return float(self.margins.max()) if self.differing else 0.0


@torch.no_grad()
def compare_codes(
    reference: ImageTokenizer, other: ImageTokenizer, images: Picture | Iterable[Picture]
) -> CodeComparison:
    """Encode pictures with both tokenizers, and measure each difference in the latents of ``reference``.

    Small margins are near-ties, as between float32 and bfloat16; large ones mean different tokenizers. Raises
    ``CodesError`` if the two don't have the same number of codes.
    """
    if other.num_codes != reference.num_codes:
        raise CodesError(
            f"the tokenizers have {reference.num_codes} and {other.num_codes} codes; expected the same number."
        )
    pixels_BCHW = reference.pixels(images)
    model = reference.model
    weight = model.quant_conv.weight
    encoding = model.encode(pixels_BCHW.to(weight.device, weight.dtype))
    codes_other = other.encode_pixels(pixels_BCHW).view(encoding.codes_Bhw.shape).to(weight.device)
    mine_BDhw = model.quantize.lookup(encoding.codes_Bhw).float()
    theirs_BDhw = model.quantize.lookup(codes_other).float()
    differs_Bhw = (codes_other != encoding.codes_Bhw).view(*encoding.latents_BDhw[:, 0].shape, -1).any(dim=-1)
    latents_BDhw = encoding.latents_BDhw.float()
    gap_Bhw = (latents_BDhw - theirs_BDhw).square().sum(1) - (latents_BDhw - mine_BDhw).square().sum(1)
    apart_Bhw = (theirs_BDhw - mine_BDhw).square().sum(1)
    margins_Bhw = gap_Bhw / (2 * apart_Bhw)
    return CodeComparison(differs_Bhw.numel(), margins_Bhw[differs_Bhw].cpu())
