"""A small image tokenizer with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..config import ChameleonVQVAEConfig
from ..model import ChameleonVQVAE
from ..tokenizer import ImageTokenizer


def make_image_tokenizer(
    *,
    resolution: int = 32,
    levels: int = 3,
    num_codes: int = 64,
    embed_dim: int = 8,
    quantizer: str = "codebook",
    quantizer_options: Mapping[str, Any] | None = None,
    with_decoder: bool = True,
    seed: int = 0,
) -> ImageTokenizer:
    """Return an image tokenizer with a few hundred thousand random weights, the same for the same arguments.

    Its grid has ``resolution / 2**(levels - 1)`` positions a side: 8×8 by default. It decodes to noise, but otherwise
    works as a trained one does.
    """
    config = ChameleonVQVAEConfig(
        resolution=resolution,
        base_channels=32,
        channel_multiplier=(1,) * levels,
        num_res_blocks=1,
        latent_channels=16,
        embed_dim=embed_dim,
        num_embeddings=num_codes,
        quantizer=quantizer,
        quantizer_options=dict(quantizer_options or {}),
        initializer_range=0.1,  # larger than the default, so that a small model uses many of its codes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ChameleonVQVAE(config, with_decoder=with_decoder)
    return ImageTokenizer(model)
