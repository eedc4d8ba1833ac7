"""How much a change of dtype, device or weights changes the codes.

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
    """What ``compare_codes`` gives."""

    positions: int
    """Positions compared."""
    margins: Tensor
    """For each position that differs, how clearly the reference's code was the nearer: the latent's distance from the
    boundary between the two entries, over the distance of the entries. 0 is a tie, 0.5 lies on the reference's entry.

    A quantizer that doesn't choose the nearest (``fsq``, ``residual``) has its ties elsewhere: its margins tell little.
    """

    @property
    def differing(self) -> int:
        """Positions whose codes differ."""
        return len(self.margins)

    @property
    def largest_margin(self) -> float:
        """The least excusable difference; 0 where nothing differs."""
        return float(self.margins.max()) if self.differing else 0.0


@torch.no_grad()
def compare_codes(
    reference: ImageTokenizer, other: ImageTokenizer, images: Picture | Iterable[Picture]
) -> CodeComparison:
    """Encode pictures with both, and judge each difference in the reference's latents.

    Small margins say that the difference is a near-tie, as between float32 and bfloat16; large ones that the two are
    different tokenizers. Raises ``CodesError`` where they don't have the same number of codes.
    """
    if other.num_codes != reference.num_codes:
        raise CodesError(f"the tokenizers have {reference.num_codes} and {other.num_codes} codes.")
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
