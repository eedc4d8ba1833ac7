"""Growing the codebook of a trained image tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from recipes.emoji.grow import grow_codebook
from torch import Tensor

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig

CONFIG = ChameleonVQVAEConfig(
    resolution=16,
    base_channels=8,
    channel_multiplier=(1, 1),
    num_res_blocks=1,
    norm_num_groups=4,
    latent_channels=4,
    embed_dim=3,
    num_embeddings=16,
    attn_type="none",
)


class PlainColours:
    """Pictures of one colour each."""

    def __len__(self) -> int:
        return 100

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """float32 [B, 3, 16, 16] in −1…1."""
        colours_B3 = torch.from_numpy(random.uniform(-1, 1, (len(indices), 3))).float()
        return colours_B3[:, :, None, None].expand(-1, -1, 16, 16).contiguous()


def distortion(model: ChameleonVQVAE) -> float:
    """Return the mean squared distance of latents from their entries."""
    pixels_BCHW = PlainColours().pixels(range(500), np.random.default_rng(7))
    with torch.no_grad():
        encoding = model.encode(pixels_BCHW)
    return float((encoding.latents_BDhw - encoding.quantized_BDhw).square().mean())


def make_model() -> ChameleonVQVAE:
    torch.manual_seed(0)
    return ChameleonVQVAE(CONFIG.replace(initializer_range=0.2)).eval()


def test_more_entries_are_nearer_to_the_latents() -> None:
    model = make_model()
    before = distortion(model)
    grown = grow_codebook(model, PlainColours(), 32)
    assert distortion(grown) < 0.5 * before
    assert grown.config.num_embeddings == grown.quantize.num_codes == 32
    others = {name: tensor for name, tensor in model.state_dict().items() if "embedding" not in name}
    assert all(torch.equal(grown.state_dict()[name], tensor) for name, tensor in others.items())
    assert model.quantize.num_codes == 16
