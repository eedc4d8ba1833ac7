"""Lookup-free quantization: each channel of a latent becomes its sign, one bit of the code.

Source: Yu et al. 2023 (arXiv 2310.05737), section 3.1.
Shapes: B pictures, D channels of a latent, h w latent grid, P = B·h·w positions, N = 2^D codes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Quantized, at_least_float32, count_codes, straight_through, without_autocast


class LFQ(nn.Module):
    """A latent of D channels becomes one of the 2^D corners ±1; the first channel is the code's lowest bit.

    The loss is ``commitment_weight · mean((z − sg(q))²) + entropy_weight · (H(code | latent) + log N − H(code))``,
    sg stopping the gradient. The entropies, in nats, are those of a soft choice, by which a channel z is above zero
    with probability sigmoid(4z / temperature): small for each latent, so that it is sure of its code, and large over
    the batch, so that all codes are used. The constant log N, which the paper leaves out, makes 0 the least.

    The gradient of the quantized latents goes straight through to the input.
    """

    codes_per_position = 1
    place_values_D: Tensor

    def __init__(
        self, bits: int, *, entropy_weight: float = 0.1, commitment_weight: float = 0.25, temperature: float = 0.01
    ) -> None:
        super().__init__()
        self.num_codes = 2**bits
        self.entropy_weight = entropy_weight
        self.commitment_weight = commitment_weight
        self.temperature = temperature
        # They follow from the configuration, and are no weights.
        self.register_buffer("place_values_D", 2 ** torch.arange(bits), persistent=False)

    @without_autocast
    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Latents to their signs."""
        exact_BDhw = at_least_float32(latents_BDhw)
        bits_BDhw = (exact_BDhw > 0).long()
        signs_BDhw = 2 * bits_BDhw - 1
        codes_Bhw = (bits_BDhw * self.place_values_D[:, None, None]).sum(dim=1)
        commitment = torch.mean((exact_BDhw - signs_BDhw) ** 2)
        logits_PD = exact_BDhw.movedim(1, -1).flatten(0, 2) * (4 / self.temperature)
        return Quantized(
            latents=straight_through(latents_BDhw, signs_BDhw),
            codes=codes_Bhw,
            loss=self.commitment_weight * commitment + self.entropy_weight * entropy_penalty(logits_PD),
            usage=count_codes(codes_Bhw, self.num_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """The corners of codes [B, h, w]: float32 latents [B, D, h, w]."""
        bits_BDhw = codes[:, None] // self.place_values_D[:, None, None] % 2
        return (2 * bits_BDhw - 1).float()


def entropy_penalty(logits_PD: Tensor) -> Tensor:
    """``H(code | latent) + log N − H(code)`` in nats, a bit being 1 with the probability sigmoid(logit): a scalar ≥ 0.

    The entropy of the codes is exact at a small part of the cost: the bits of a latent are independent, so that the
    table of its codes' probabilities is the product of one for the lower half of the bits and one for the upper, and
    the sum of such products over all latents is one product of matrices.
    """
    ones_PD, zeros_PD = logits_PD.sigmoid(), (-logits_PD).sigmoid()
    of_each_latent = (ones_PD * F.softplus(-logits_PD) + zeros_PD * F.softplus(logits_PD)).sum(dim=1).mean()
    positions, bits = logits_PD.shape
    lower_PL = _joint(zeros_PD[:, : bits // 2], ones_PD[:, : bits // 2])
    upper_PU = _joint(zeros_PD[:, bits // 2 :], ones_PD[:, bits // 2 :])
    mean_UL = upper_PU.T @ lower_PL / positions
    # Clamped inside of the logarithm alone: a code without probability adds nothing, and has a finite gradient.
    of_all = -(mean_UL * mean_UL.clamp(min=torch.finfo(mean_UL.dtype).tiny).log()).sum()
    return of_each_latent + bits * math.log(2) - of_all


def _joint(zeros_PD: Tensor, ones_PD: Tensor) -> Tensor:
    """The probability of each number that D bits can be, the first the lowest: [P, 2^D]."""
    joint = zeros_PD.new_ones(len(zeros_PD), 1)
    for zero_P, one_P in zip(zeros_PD.unbind(1), ones_PD.unbind(1), strict=True):
        joint = torch.cat([joint * zero_P[:, None], joint * one_P[:, None]], dim=1)
    return joint
