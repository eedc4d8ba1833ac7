"""Chameleon's quantizer ``codebook``: the nearest entry of a learned codebook.

Shapes: B pictures, D width of a latent, h w latent grid, M = B·h·w positions, Z entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .._moved import moved_names
from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from .contract import Quantized, at_least_float32, count_codes, straight_through, without_autocast
from .options import QuantizerOptions

CHUNK = 4096
"""Positions whose distances to all entries are computed together: with 8,192 entries 128 MiB in float32."""
CHUNK_ON_CPU = 256
"""The same on a CPU: so few that the distances, 8 MiB, stay in its cache and in the same memory."""

CANCELLATION = 2**13
"""Units of rounding, relative to |z|² + |e|², below which a squared distance is computed from the differences."""


class CodebookOptions(QuantizerOptions, frozen=True, kw_only=True):
    """The options of ``codebook``: none. Its loss is weighted by ``ChameleonVQVAEConfig.beta``."""


class Codebook(nn.Module):
    """Replaces each latent by the entry nearest in squared distance, by the first of equally near ones.

    The loss is that of van den Oord et al. 2017, eq. 3, with beta placed as in taming-transformers:
    ``mean((sg(q) - z)²) + beta · mean((q - sg(z))²)``, where sg stops the gradient. The gradient of the quantized
    latents passes straight through to the input.
    """

    codes_per_position = 1

    def __init__(self, num_codes: int, width: int, *, beta: float = 0.25, initializer_range: float = 0.02) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.beta = beta
        self.embedding = nn.Embedding(num_codes, width)
        nn.init.normal_(self.embedding.weight, std=initializer_range)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        """Quantize latents [B, D, h, w] to their nearest entries."""
        return self.quantize(latents_BDhw, self.nearest(latents_BDhw))

    def quantize(self, latents_BDhw: Tensor, codes_Bhw: Tensor) -> Quantized:
        """Return what ``forward`` returns, given the codes [B, h, w] that ``nearest`` chose."""
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
        """Return the code of each latent: int64 [B, h, w]."""
        batch, width, height, columns = latents_BDhw.shape
        latents_MD = latents_BDhw.permute(0, 2, 3, 1).reshape(-1, width)
        return nearest_entries(latents_MD, self.embedding.weight).view(batch, height, columns)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the entries of codes [B, h, w]: latents [B, D, h, w]."""
        entries_BhwD: Tensor = self.embedding(codes)
        return entries_BhwD.permute(0, 3, 1, 2)


def nearest_entries(latents_MD: Tensor, entries_ZD: Tensor) -> Tensor:
    """Return the index of the entry nearest to each latent, at least in float32: int64 [M]."""
    entries_ZD = at_least_float32(entries_ZD)
    norms_Z = entries_ZD.square().sum(dim=1)
    chunk = CHUNK_ON_CPU if latents_MD.device.type == "cpu" else CHUNK
    distances = norms_Z.new_empty(min(chunk, len(latents_MD)), len(entries_ZD))
    return torch.cat(
        [
            _nearest(part_MD.to(norms_Z.dtype), entries_ZD, norms_Z, distances[: len(part_MD)])
            for part_MD in torch.split(latents_MD, chunk)
        ]
    )


def _nearest(latents_MD: Tensor, entries_ZD: Tensor, norms_Z: Tensor, distances_MZ: Tensor) -> Tensor:
    """Return the index of the entry nearest to each latent, int64 [M]; ``distances_MZ`` is overwritten."""
    # |z - e|² = |z|² - 2 z·e + |e|², where |z|² is the same for every entry.
    least = torch.addmm(norms_Z, latents_MD, entries_ZD.T, alpha=-2, out=distances_MZ).min(dim=1)
    squares_M = latents_MD.square().sum(dim=1)
    scale_M = squares_M + norms_Z[least.indices]
    # Where the terms nearly cancel, what is left is rounding, and the differences themselves are exact.
    cancels_M = squares_M + least.values < CANCELLATION * torch.finfo(scale_M.dtype).eps * scale_M
    codes_M = least.indices
    for rows in torch.split(cancels_M.nonzero()[:, 0], CHUNK // 4):
        exact_MZ = torch.cdist(latents_MD[rows], entries_ZD, compute_mode="donot_use_mm_for_euclid_dist")
        codes_M[rows] = exact_MZ.argmin(dim=1)
    return codes_M


def make(config: ChameleonVQVAEConfig) -> Codebook:
    """Make the codebook of a configuration."""
    return Codebook(
        config.num_embeddings, config.embed_dim, beta=config.beta, initializer_range=config.initializer_range
    )


SPEC = PluginSpec(
    name="codebook",
    factory=make,
    api_version=HOOK_API_VERSION,
    summary="the nearest of learned entries, trained by gradient (Chameleon's own)",
    unsupported=CodebookOptions.problem,
)


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"POSITIONS_AT_ONCE": f"{__name__}:CHUNK"})
