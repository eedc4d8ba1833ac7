"""Residual quantization: several codebooks one after the other, each for what those before it left.

Source: Zeghidour et al. 2021, SoundStream (arXiv 2107.03312), section III-C.
Shapes: B pictures, D width of a latent, h w latent grid, Q codes per position, one of each level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .codebook import Codebook
from .contract import Quantized, at_least_float32, count_codes, straight_through


class ResidualCodebooks(nn.Module):
    """A latent becomes the sum of one entry of each level, each the nearest to what the levels before it left.

    The levels have codebooks of their own, of the same size, so that a code of any level is one of ``num_codes``.
    The loss is the mean of the levels' own; the gradient of the quantized latents goes straight through to the input.

    ``quantizer_dropout``: while training, this share of the pictures uses only its first levels, 1…Q of them at random,
    so that the first levels alone say as much as they can. The levels left out see nothing of those pictures and add
    nothing; their codes are what they would have been.
    """

    levels: Sequence[Codebook]

    def __init__(self, levels: Sequence[Codebook], *, quantizer_dropout: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)  # type: ignore[assignment]  # a sequence of what was put in
        self.num_codes = levels[0].num_codes
        self.codes_per_position = len(levels)
        self.quantizer_dropout = quantizer_dropout

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Latents to sums of entries; in training mode levels of moving averages then move."""
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
        """The sums of the entries of codes [B, h, w, Q]: latents [B, D, h, w]."""
        return torch.stack(
            [level.lookup(codes_Bhw) for level, codes_Bhw in zip(self.levels, codes.unbind(-1), strict=True)]
        ).sum(dim=0)

    @torch.no_grad()
    def codebooks_for(self, latents_BDhw: Tensor) -> Iterator[tuple[Codebook, Tensor]]:
        """Each level with what it gets to quantize of some latents: what training places and revives entries by.

        A level's entries may be moved before the next is asked for, which then gets what the new ones leave.
        """
        for level in self.levels:
            yield level, latents_BDhw
            latents_BDhw = latents_BDhw - level.lookup(level.nearest(latents_BDhw))

    def _depth(self, latents_BDhw: Tensor) -> Tensor:
        """How many levels each picture uses: int64 [B]."""
        batch, most = len(latents_BDhw), len(self.levels)
        depth_B = torch.full((batch,), most)
        if self.training and self.quantizer_dropout:
            drops_B = torch.rand(batch) < self.quantizer_dropout
            depth_B = torch.where(drops_B, torch.randint(1, most + 1, (batch,)), depth_B)
        return depth_B.to(latents_BDhw.device)
