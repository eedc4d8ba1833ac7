"""The same pixels and latents as the VQModel of diffusers, which is this VQGAN with other names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers import VQModel
from torch import Tensor

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig

TOLERANCE = {"rtol": 0, "atol": 1e-5}
"""float32: the two add up the same products in another order; pixels and latents are about 1."""
FULL_SIZE = {"rtol": 0, "atol": 1e-4}
"""float32, through 50 layers of up to 4,608 products each; one level of 255 is 80 times as much."""

RENAMED = [
    (r"(encoder|decoder)\.mid\.block_1\.", r"\1.mid_block.resnets.0."),
    (r"(encoder|decoder)\.mid\.block_2\.", r"\1.mid_block.resnets.1."),
    (r"(encoder|decoder)\.mid\.attn_1\.", r"\1.mid_block.attentions.0."),
    (r"encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"encoder\.down\.(\d+)\.attn\.(\d+)\.", r"encoder.down_blocks.\1.attentions.\2."),
    (r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"decoder\.up\.(\d+)\.attn\.(\d+)\.", r"decoder.up_blocks.\1.attentions.\2."),
    (r"decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
    (r"\.norm_out\.", r".conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.q\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.k\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.v\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
]


def to_diffusers(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Our weights by the names of diffusers, which counts the decoder's levels in the opposite order."""
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", new)
        if re.search(r"attentions\.\d+\.to_", new) and new.endswith("weight"):
            tensor = tensor[:, :, 0, 0]  # a linear layer there
        renamed[new] = tensor
    return renamed


def both(config: ChameleonVQVAEConfig) -> tuple[Any, ChameleonVQVAE]:
    torch.manual_seed(0)
    ours = ChameleonVQVAE(config).eval()
    levels = len(config.channel_multiplier)
    attends = [config.resolution // 2**level in (config.attn_resolutions or ()) for level in range(levels)]
    peer = VQModel(
        down_block_types=tuple("AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attends),
        up_block_types=tuple("AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in reversed(attends)),
        block_out_channels=tuple(config.base_channels * each for each in config.channel_multiplier),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        num_vq_embeddings=config.num_embeddings,
        vq_embed_dim=config.embed_dim,
        mid_block_add_attention=config.has_attention,
    ).eval()
    peer.load_state_dict(to_diffusers(ours.state_dict(), levels))
    return peer, ours


SMALL = {
    "resolution": 32,
    "base_channels": 32,
    "latent_channels": 16,
    "embed_dim": 8,
    "num_embeddings": 128,
}
# The first multiplier is 1: diffusers has no other width between the first convolution and the first level.
CONFIGS = {
    "three levels": {"channel_multiplier": (1, 2, 2)},
    "narrowing": {"channel_multiplier": (1, 3, 1), "num_res_blocks": 1},
    "one level": {"channel_multiplier": (1,)},
    "attention at two levels": {"channel_multiplier": (1, 2, 2), "attn_resolutions": (32, 8)},
    "no attention": {"channel_multiplier": (1, 2), "attn_type": "none"},
    "larger weights": {"channel_multiplier": (1, 2), "initializer_range": 0.05},
}


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_small_models_draw_the_same_pixels_and_give_the_same_latents(fields: dict[str, Any]) -> None:
    config = ChameleonVQVAEConfig(**{**SMALL, **fields})
    peer, ours = both(config)
    side = config.resolution // config.stride
    codes_Bhw = torch.randint(config.num_embeddings, (2, side, side + 1))
    drawn = peer.decode(ours.quantize.lookup(codes_Bhw).contiguous(), force_not_quantize=True).sample
    torch.testing.assert_close(ours.decode(codes_Bhw), drawn, **TOLERANCE)
    pixels_BCHW = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(ours.encode(pixels_BCHW).latents_BDhw, peer.encode(pixels_BCHW).latents, **TOLERANCE)


@torch.no_grad()
def test_the_full_size_decoder_draws_the_same_pixels() -> None:
    config = ChameleonVQVAEConfig()
    peer, ours = both(config)
    codes_Bhw = torch.randint(config.num_embeddings, (1, 8, 8))
    drawn = peer.decode(ours.quantize.lookup(codes_Bhw).contiguous(), force_not_quantize=True).sample
    torch.testing.assert_close(ours.decode(codes_Bhw), drawn, **FULL_SIZE)
