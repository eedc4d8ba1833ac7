"""The quantizer ``lfq``, lookup-free quantization: each channel of a latent becomes its sign, one bit of the code.

Source: Yu et al. 2023 (arXiv 2310.05737), section 3.1.
Shapes: B pictures, D channels of a latent, h w latent grid, M = B·h·w positions, Z = 2^D codes, X and Y values of the
lower and of the upper half of the bits.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from .contract import Quantized, at_least_float32, count_codes, straight_through, without_autocast
from .options import QuantizerOptions
from .over_ranks import mean_over_ranks

LARGEST = sys.float_info.max
Weight = Annotated[float, Meta(ge=0, le=LARGEST, description="a finite number ≥ 0")]


class LFQOptions(QuantizerOptions, frozen=True, kw_only=True):
    """The options of ``lfq``."""

    entropy_weight: Weight = 0.1
    """Weight of the entropy penalty, in nats; finite, ≥ 0, by default 0.1."""
    commitment_weight: Weight = 0.25
    """Weight of the commitment loss, which keeps channels near ±1; finite, ≥ 0, by default 0.25."""
    temperature: Annotated[float, Meta(gt=0, le=LARGEST, description="a finite number > 0")] = 0.01
    """Temperature of the soft choice in the entropy penalty; finite, > 0, by default 0.01."""


class LFQ(nn.Module):
    """Replaces a latent of D channels by one of the 2^D corners ±1; the first channel is the code's lowest bit.

    The loss is ``commitment_weight · mean((z − sg(q))²) + entropy_weight · (H(code | latent) + log Z − H(code))``,
    where sg stops the gradient. The entropies, in nats, are those of a soft choice in which a channel z is above zero
    with probability sigmoid(4z / temperature). The first is small if each latent is sure of its code, the second large
    if all codes are used. The constant log Z, which the paper leaves out, makes the minimum 0.

    The gradient of the quantized latents passes straight through to the input. With ``over_ranks``, H(code) is that of
    the latents of all processes together; see ``OverRanks``.
    """

    codes_per_position = 1
    over_ranks = False
    place_values_D: Tensor

    def __init__(
        self, bits: int, *, entropy_weight: float = 0.1, commitment_weight: float = 0.25, temperature: float = 0.01
    ) -> None:
        super().__init__()
        self.num_codes = 2**bits
        self.entropy_weight = entropy_weight
        self.commitment_weight = commitment_weight
        self.temperature = temperature
        # They follow from the configuration, so they aren't saved.
        self.register_buffer("place_values_D", 2 ** torch.arange(bits), persistent=False)

    @without_autocast
    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Quantize latents [B, D, h, w] to their signs."""
        exact_BDhw = at_least_float32(latents_BDhw)
        bits_BDhw = (exact_BDhw > 0).long()
        signs_BDhw = 2 * bits_BDhw - 1
        codes_Bhw = (bits_BDhw * self.place_values_D[:, None, None]).sum(dim=1)
        commitment = torch.mean((exact_BDhw - signs_BDhw) ** 2)
        logits_MD = exact_BDhw.movedim(1, -1).flatten(0, 2) * (4 / self.temperature)
        penalty = entropy_penalty(logits_MD, over_ranks=self.over_ranks)
        return Quantized(
            latents=straight_through(latents_BDhw, signs_BDhw),
            codes=codes_Bhw,
            loss=self.commitment_weight * commitment + self.entropy_weight * penalty,
            usage=count_codes(codes_Bhw, self.num_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the corners of codes [B, h, w]: float32 latents [B, D, h, w]."""
        bits_BDhw = codes[:, None] // self.place_values_D[:, None, None] % 2
        return (2 * bits_BDhw - 1).float()


def entropy_penalty(logits_MD: Tensor, *, over_ranks: bool = False) -> Tensor:
    """Return ``H(code | latent) + log Z − H(code)`` in nats, a scalar ≥ 0; a bit is 1 with probability sigmoid(logit).

    With ``over_ranks``, H(code) is that of as many latents of each process.

    The entropy of the codes is exact at a small part of the cost: the bits of a latent are independent, so the table of
    its codes' probabilities is the product of one for the lower half of the bits and one for the upper, and the sum of
    such products over all latents is one matrix product.
    """
    ones_MD, zeros_MD = logits_MD.sigmoid(), (-logits_MD).sigmoid()
    of_each_latent = (ones_MD * F.softplus(-logits_MD) + zeros_MD * F.softplus(logits_MD)).sum(dim=1).mean()
    positions, bits = logits_MD.shape
    lower_MX = _joint(zeros_MD[:, : bits // 2], ones_MD[:, : bits // 2])
    upper_MY = _joint(zeros_MD[:, bits // 2 :], ones_MD[:, bits // 2 :])
    mean_YX = upper_MY.T @ lower_MX / positions
    if over_ranks:
        mean_YX = mean_over_ranks(mean_YX)
    # Clamped only in the logarithm: a code of probability 0 adds nothing, and its gradient is finite.
    of_all = -(mean_YX * mean_YX.clamp(min=torch.finfo(mean_YX.dtype).tiny).log()).sum()
    return of_each_latent + bits * math.log(2) - of_all


def _joint(zeros_MD: Tensor, ones_MD: Tensor) -> Tensor:
    """Return the probability of each value of D bits, the first the lowest: [M, 2^D]."""
    joint = zeros_MD.new_ones(len(zeros_MD), 1)
    for zero_M, one_M in zip(zeros_MD.unbind(1), ones_MD.unbind(1), strict=True):
        joint = torch.cat([joint * zero_M[:, None], joint * one_M[:, None]], dim=1)
    return joint


def unsupported(config: ChameleonVQVAEConfig) -> str | None:
    """Return why the options don't fit the configuration: a bit per channel."""
    codes, bits = config.num_embeddings, config.num_embeddings.bit_length() - 1
    if codes != 2**bits:
        return (
            f"num_embeddings is {codes}; each channel is a bit, so it must be a power of two, such as {2**bits} or "
            f"{2 ** (bits + 1)}"
        )
    if config.embed_dim != bits:
        return (
            f"embed_dim is {config.embed_dim} and num_embeddings {codes}, which is 2 to the power of {bits}; each "
            f"channel is a bit, so embed_dim must be {bits}"
        )
    return LFQOptions.problem(config)


def make(config: ChameleonVQVAEConfig) -> LFQ:
    """Make the quantizer of a configuration."""
    options = LFQOptions.of(config)
    return LFQ(
        config.embed_dim,
        entropy_weight=options.entropy_weight,
        commitment_weight=options.commitment_weight,
        temperature=options.temperature,
    )


SPEC = PluginSpec(
    name="lfq",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="the sign of each channel, kept in use by an entropy penalty; no codebook",
    unsupported=unsupported,
)
