"""Grow the codebook of a trained image tokenizer.

With twice as many entries from the start, each would learn from half as many latents. Placed among latents that are
already learned, they cost nothing, and the decoder, whose codebook moved during training, decodes them without more
training.

Shapes: B pictures, D latent width, h w latent grid, M flattened latents, Z entries.
"""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from chameleon_vq import ChameleonVQVAE
from chameleon_vq.training import PictureSource

PICTURES = 2560
ROUNDS = 6
CHUNK = 8192


@torch.no_grad()
def grow_codebook(model: ChameleonVQVAE, pictures: PictureSource, num_codes: int, *, seed: int = 0) -> ChameleonVQVAE:
    """Return the model with ``num_codes`` entries: its own and latents of pictures, refined by k-means.

    ``model`` must have the quantizer "codebook".
    """
    model.eval()
    random = np.random.default_rng((seed, 1))
    parts = []
    for _ in track(range(0, PICTURES, 64), "encoding for the codebook"):
        latents_BDhw = model.encode(_draw(pictures, 64, random)).latents_BDhw
        parts.append(latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2))
    latents_MD = torch.cat(parts)
    entries_ZD = model.get_parameter("quantize.embedding.weight")
    new_Z = torch.from_numpy(random.permutation(len(latents_MD))[: num_codes - len(entries_ZD)])
    entries_ZD = torch.cat([entries_ZD, latents_MD[new_Z]])
    for _ in track(range(ROUNDS), "growing the codebook"):
        nearest_M = torch.cat([torch.cdist(part, entries_ZD).argmin(dim=1) for part in latents_MD.split(CHUNK)])
        counts_Z = torch.bincount(nearest_M, minlength=num_codes)
        sums_ZD = torch.zeros_like(entries_ZD).index_add_(0, nearest_M, latents_MD)
        # An entry that hardly any latent chose stays.
        known_Z = counts_Z > 3
        entries_ZD[known_Z] = sums_ZD[known_Z] / counts_Z[known_Z, None]
    with torch.device("meta"):
        grown = ChameleonVQVAE(model.config.replace(num_embeddings=num_codes))
    grown.load_state_dict(model.state_dict() | {"quantize.embedding.weight": entries_ZD}, assign=True)
    return grown.eval()


def _draw(pictures: PictureSource, count: int, random: np.random.Generator) -> Tensor:
    return pictures.pixels(random.integers(len(pictures), size=count).tolist(), random)
