"""The last minute of the image tokenizer: its codebook grows.

Twice as many entries from the start would each learn from half as many latents. Put among latents that are learned
already they come for nothing, and the decoder, which has seen its codebook move all the time, draws them as they are.

Shapes: B pictures, D latent width, h w latent grid, L latents, K entries.
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
    """The same model with ``num_codes`` entries: its own, and latents of pictures, all moved by k-means.

    ``model`` has the quantizer "codebook".
    """
    model.eval()
    random = np.random.default_rng((seed, 1))
    parts = []
    for _ in track(range(0, PICTURES, 64), "encoding for the codebook"):
        latents_BDhw = model.encode(_draw(pictures, 64, random)).latents_BDhw
        parts.append(latents_BDhw.permute(0, 2, 3, 1).flatten(0, 2))
    latents_LD = torch.cat(parts)
    entries_KD = model.get_parameter("quantize.embedding.weight")
    new_K = torch.from_numpy(random.permutation(len(latents_LD))[: num_codes - len(entries_KD)])
    entries_KD = torch.cat([entries_KD, latents_LD[new_K]])
    for _ in track(range(ROUNDS), "growing the codebook"):
        nearest_L = torch.cat([torch.cdist(part, entries_KD).argmin(dim=1) for part in latents_LD.split(CHUNK)])
        counts_K = torch.bincount(nearest_L, minlength=num_codes)
        sums_KD = torch.zeros_like(entries_KD).index_add_(0, nearest_L, latents_LD)
        # An entry that hardly anything chose stays.
        known_K = counts_K > 3
        entries_KD[known_K] = sums_KD[known_K] / counts_K[known_K, None]
    with torch.device("meta"):
        grown = ChameleonVQVAE(model.config.replace(num_embeddings=num_codes))
    grown.load_state_dict(model.state_dict() | {"quantize.embedding.weight": entries_KD}, assign=True)
    return grown.eval()


def _draw(pictures: PictureSource, count: int, random: np.random.Generator) -> Tensor:
    return pictures.pixels(random.integers(len(pictures), size=count).tolist(), random)
