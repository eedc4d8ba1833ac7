"""Strategies for hypothesis: pictures, configurations, image processors, grids of codes and of latents.

Shapes: B pictures, D width of a latent, h w latent grid, Q codes per position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from hypothesis import strategies as st
from torch import Tensor

from ..config import ChameleonVQVAEConfig
from ..image_processor import ChameleonImageProcessor

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")


@st.composite
def pictures(
    draw: st.DrawFn, *, max_side: int = 64, modes: Sequence[str] = MODES, min_side: int = 1
) -> PIL.Image.Image:
    """Draw PIL images of every mode that files have: noise or one colour, with sides up to ``max_side`` pixels."""
    width, height = draw(st.integers(min_side, max_side)), draw(st.integers(min_side, max_side))
    mode = draw(st.sampled_from(list(modes)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (1, 1, 4) if draw(st.booleans()) else (height, width, 4)
    values_HWC = np.broadcast_to(generator.integers(0, 256, shape, dtype=np.uint8), (height, width, 4)).copy()
    if mode == "I;16":
        return PIL.Image.fromarray(values_HWC[:, :, 0].astype(np.uint16) * 257)
    image = PIL.Image.fromarray(values_HWC)
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


@st.composite
def configs(draw: st.DrawFn) -> ChameleonVQVAEConfig:
    """Draw small configurations with every field varied that ``transformers`` has."""
    levels = draw(st.integers(1, 3))
    resolution = draw(st.sampled_from([8, 16]))
    sides = [resolution // 2**level for level in range(levels)]
    return ChameleonVQVAEConfig(
        embed_dim=draw(st.integers(1, 8)),
        num_embeddings=draw(st.integers(2, 64)),
        double_latent=draw(st.booleans()),
        latent_channels=draw(st.integers(1, 8)),
        resolution=resolution,
        in_channels=draw(st.sampled_from([1, 3, 4])),
        base_channels=32,
        channel_multiplier=tuple(draw(st.lists(st.integers(1, 2), min_size=levels, max_size=levels))),
        num_res_blocks=draw(st.integers(1, 2)),
        attn_resolutions=draw(st.none() | st.lists(st.sampled_from(sides), max_size=2, unique=True).map(tuple)),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        attn_type=draw(st.sampled_from(["vanilla", "none", None])),
    )


@st.composite
def image_processors(draw: st.DrawFn, *, max_side: int = 48) -> ChameleonImageProcessor:
    """Draw image processors for small pictures with every field varied, whose pixels can be stacked."""
    sides = st.integers(1, max_side)
    deviations = st.floats(0.1, 2.0)
    return ChameleonImageProcessor(
        do_resize=draw(st.booleans()),
        size=draw(
            st.fixed_dictionaries({"shortest_edge": sides}) | st.fixed_dictionaries({"height": sides, "width": sides})
        ),
        resample=draw(st.integers(0, 5)),
        crop_size=draw(st.fixed_dictionaries({"height": sides, "width": sides})),
        do_rescale=draw(st.booleans()),
        rescale_factor=draw(st.sampled_from([0.0078, 1 / 255, 1.0])),
        do_normalize=draw(st.booleans()),
        image_mean=draw(st.floats(-1.0, 1.0) | st.tuples(*[st.floats(-1.0, 1.0)] * 3)),
        image_std=draw(deviations | st.tuples(*[deviations] * 3)),
        rounding=draw(st.sampled_from(["transformers", "meta"])),
    )


@st.composite
def code_grids(draw: st.DrawFn, num_codes: int, *, codes_per_position: int = 1, max_side: int = 6) -> Tensor:
    """Draw int64 codes [B, h, w], or [B, h, w, Q] if there are several per position."""
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, max_side)), draw(st.integers(1, max_side))]
    if codes_per_position > 1:
        shape.append(codes_per_position)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**63 - 1)))
    return torch.randint(num_codes, shape, generator=generator)


@st.composite
def latent_grids(draw: st.DrawFn, width: int, *, max_side: int = 6) -> Tensor:
    """Draw float32 latents [B, D, h, w]: zero, small, normal or large; sometimes the same in all positions."""
    batch, height, columns = draw(st.integers(1, 3)), draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**63 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    size = (1, 1) if draw(st.booleans()) else (height, columns)
    return torch.randn(batch, width, *size, generator=generator).expand(-1, -1, height, columns).clone() * scale
