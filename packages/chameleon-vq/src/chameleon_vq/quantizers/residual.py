"""The quantizer ``residual``: several codebooks, each for the residual that those before it leave.

Source: Zeghidour et al. 2021, SoundStream (arXiv 2107.03312), section III-C.
Shapes: B pictures, D width of a latent, h w latent grid, Q codes per position, one of each level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from . import codebook, ema
from .codebook import Codebook
from .contract import Quantized, at_least_float32, count_codes, straight_through
from .ema import EMACodebook


class ResidualOptions(ema.EMAOptions, frozen=True, kw_only=True):
    """The options of ``residual``; those of ``ema`` only with ``update="ema"``."""

    num_quantizers: Annotated[int, Meta(ge=2, description="an integer ≥ 2, the number of codebooks")]
    """Number of codebooks, which is that of the codes per position; ≥ 2, required."""
    quantizer_dropout: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 0.0
    """Share of the pictures that use only their first codebooks during training; 0…1, by default 0."""
    update: Annotated[Literal["ema", "gradient"], Meta(description="'ema' or 'gradient'")] = "ema"
    """How the codebooks learn: "ema" (the default) as those of ``ema``, "gradient" as those of ``codebook``."""


class ResidualCodebooks(nn.Module):
    """Replaces a latent by a sum of entries, one per level, each the nearest to the residual of the levels before it.

    Each level has a codebook of its own, all of the same size, so a code of any level is 0…num_codes − 1. The loss is
    the mean of the levels' losses; the gradient of the quantized latents passes straight through to the input.

    ``quantizer_dropout`` is the share of the pictures that, in training mode, use only their first 1…Q levels, a number
    drawn at random, so that the first levels alone carry as much as they can. The levels left out neither see those
    pictures nor add to their latents; their codes are what they would have been. With ``over_ranks``, the levels of
    moving averages follow the latents of all processes together; see ``OverRanks``.
    """

    levels: Sequence[Codebook]

    def __init__(self, levels: Sequence[Codebook], *, quantizer_dropout: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)  # type: ignore[assignment]  # a ModuleList isn't a Sequence for type checkers
        self.num_codes = levels[0].num_codes
        self.codes_per_position = len(levels)
        self.quantizer_dropout = quantizer_dropout
        self._over_ranks = False

    @property
    def over_ranks(self) -> bool:
        """Whether other processes have parts of the same batch."""
        return self._over_ranks

    @over_ranks.setter
    def over_ranks(self, value: bool) -> None:
        self._over_ranks = value
        for level in self.levels:
            if isinstance(level, EMACodebook):
                level.over_ranks = value

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Quantize latents [B, D, h, w] to sums of entries; in training mode, update levels of moving averages."""
        residual_BDhw = at_least_float32(latents_BDhw)
        sum_BDhw = torch.zeros_like(residual_BDhw)
        loss = residual_BDhw.new_zeros(())
        codes = []
        depth_B = self._depth(latents_BDhw)
        for index, level in enumerate(self.levels):
            uses_B = depth_B > index
            codes_Bhw = level.nearest(residual_BDhw)
            entries_BDhw = level.lookup(codes_Bhw).detach()
            if uses_B.any():
                loss = loss + level.quantize(residual_BDhw[uses_B], codes_Bhw[uses_B]).loss
            elif self.over_ranks:
                # Other processes may have pictures of this level; the loss, a mean of nothing, is NaN here.
                loss = loss + level.quantize(residual_BDhw[uses_B], codes_Bhw[uses_B]).loss.nan_to_num()
            sum_BDhw = sum_BDhw + entries_BDhw * uses_B[:, None, None, None]
            residual_BDhw = residual_BDhw - entries_BDhw
            codes.append(codes_Bhw)
        codes_BhwQ = torch.stack(codes, dim=-1)
        return Quantized(
            latents=straight_through(latents_BDhw, sum_BDhw),
            codes=codes_BhwQ,
            loss=loss / len(self.levels),
            usage=count_codes(codes_BhwQ, self.num_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the sums of the entries of codes [B, h, w, Q]: latents [B, D, h, w]."""
        return torch.stack(
            [level.lookup(codes_Bhw) for level, codes_Bhw in zip(self.levels, codes.unbind(-1), strict=True)]
        ).sum(dim=0)

    @torch.no_grad()
    def codebooks_for(self, latents_BDhw: Tensor) -> Iterator[tuple[Codebook, Tensor]]:
        """Yield each level with the latents that it quantizes, for training to place and revive its entries.

        If a level's entries are changed before the next level is asked for, that level sees what the new ones leave.
        """
        for level in self.levels:
            yield level, latents_BDhw
            latents_BDhw = latents_BDhw - level.lookup(level.nearest(latents_BDhw))

    def _depth(self, latents_BDhw: Tensor) -> Tensor:
        """Return how many levels each picture uses: int64 [B]."""
        batch, most = len(latents_BDhw), len(self.levels)
        depth_B = torch.full((batch,), most)
        if self.training and self.quantizer_dropout:
            drops_B = torch.rand(batch) < self.quantizer_dropout
            depth_B = torch.where(drops_B, torch.randint(1, most + 1, (batch,)), depth_B)
        return depth_B.to(latents_BDhw.device)


def unsupported(config: ChameleonVQVAEConfig) -> str | None:
    """Return why the options don't fit each other, or None."""
    problem = ResidualOptions.problem(config)
    if problem is not None:
        return problem
    unused = [name for name in ("decay", "smoothing") if name in config.quantizer_options]
    if ResidualOptions.of(config).update == "gradient" and unused:
        return f"{config.quantizer!r} has the quantizer_option {unused[0]!r} only with update='ema'; leave it out"
    return None


def make(config: ChameleonVQVAEConfig) -> ResidualCodebooks:
    """Make the quantizer of a configuration."""
    options = ResidualOptions.of(config)
    of_a_level = config.replace(quantizer_options={})
    if options.update == "ema":
        of_a_level = config.replace(quantizer_options={"decay": options.decay, "smoothing": options.smoothing})
    make_level = ema.make if options.update == "ema" else codebook.make
    levels = [make_level(of_a_level) for _ in range(options.num_quantizers)]
    return ResidualCodebooks(levels, quantizer_dropout=options.quantizer_dropout)


SPEC = PluginSpec(
    name="residual",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="several codes per position, each of a codebook for what those before it left",
    unsupported=unsupported,
)
