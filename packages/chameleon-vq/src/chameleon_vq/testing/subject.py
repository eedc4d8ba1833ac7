"""What the conformance suite tests: a quantizer, a configuration for it, latents and codes, on a device.

Shapes: B pictures, C channels, H W pixels, D width of a latent, h w latent grid, Q codes per position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..config import ChameleonVQVAEConfig
from ..model import ChameleonVQVAE
from ..quantizers import Quantized, VectorQuantizer
from ..registry import make_quantizer
from .strategies import code_grids, latent_grids
from .tolerances import assert_close

SMALL = {
    "embed_dim": 6,
    "num_embeddings": 32,
    "latent_channels": 8,
    "resolution": 16,
    "base_channels": 32,
    "channel_multiplier": (1, 1),
    "num_res_blocks": 1,
    "initializer_range": 0.3,  # larger than the default, so that latents of a small model choose many codes
}


class Subject:
    """The quantizer that a subclass names, and the inputs to test it with."""

    name: ClassVar[str]
    """The name that the quantizer is registered by."""
    config_fields: ClassVar[Mapping[str, Any]] = {}
    """Fields of ``ChameleonVQVAEConfig`` that it needs; {} by default."""
    device: ClassVar[str] = "cpu"
    """The device that the tests run on; by default "cpu"."""

    def make_config(self) -> ChameleonVQVAEConfig:
        """Return a small configuration with this quantizer."""
        return ChameleonVQVAEConfig(**{**SMALL, "quantizer": self.name, **self.config_fields})

    def make_quantizer(self, config: ChameleonVQVAEConfig, *, seed: int = 0) -> Any:
        """Return the quantizer of a configuration, switched to inference."""
        torch.manual_seed(seed)
        quantizer: Any = make_quantizer(config)
        return quantizer.to(self.device).eval()

    def make_model(self, config: ChameleonVQVAEConfig) -> ChameleonVQVAE:
        """Return a model with random weights, in training mode."""
        torch.manual_seed(0)
        return ChameleonVQVAE(config).to(self.device)

    def make_latents(self, config: ChameleonVQVAEConfig) -> Tensor:
        """Return latents [3, D, 5, 4]."""
        return torch.randn(3, config.embed_dim, 5, 4, generator=torch.Generator().manual_seed(1)).to(self.device)

    def make_weights(self, config: ChameleonVQVAEConfig) -> Tensor:
        """Return a gradient for those latents: [3, D, 5, 4]."""
        return torch.randn(3, config.embed_dim, 5, 4, generator=torch.Generator().manual_seed(2)).to(self.device)

    def many_latents(self, config: ChameleonVQVAEConfig) -> Tensor:
        """Return latents [4, D, 40, 40], among them near-ties that rounded distances would decide differently."""
        shape = (4, config.embed_dim, 40, 40)
        return (torch.randn(shape, generator=torch.Generator().manual_seed(3)) / 4).to(self.device)

    def make_pixels(self, config: ChameleonVQVAEConfig) -> Tensor:
        """Return noise [2, C, H, W] in −1…1."""
        shape = (2, config.in_channels, config.resolution, config.resolution)
        return (torch.rand(shape, generator=torch.Generator().manual_seed(4)) * 2 - 1).to(self.device)

    def latents(self, config: ChameleonVQVAEConfig) -> st.SearchStrategy[Tensor]:
        """Return a strategy for latents of every kind."""
        return latent_grids(config.embed_dim).map(lambda latents_BDhw: latents_BDhw.to(self.device))

    def codes(self, quantizer: VectorQuantizer) -> st.SearchStrategy[Tensor]:
        """Return a strategy for codes of the quantizer."""
        grids = code_grids(quantizer.num_codes, codes_per_position=quantizer.codes_per_position)
        return grids.map(lambda codes: codes.to(self.device))

    def every_code(self, quantizer: VectorQuantizer) -> Tensor:
        """Return a grid of all codes; each position has one code in all of its places."""
        codes = torch.arange(quantizer.num_codes, device=self.device).view(1, 1, -1)
        several = quantizer.codes_per_position
        return codes if several == 1 else codes[..., None].expand(-1, -1, -1, several)

    def largest_value(self, quantizer: VectorQuantizer) -> Tensor:
        """Return the largest absolute value in the latents of the codes."""
        return quantizer.lookup(self.every_code(quantizer)).detach().abs().max()

    def assert_lookup_gives_latents(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        """Assert that looking up the codes of latents gives the quantized latents."""
        quantized = quantizer(latents_BDhw)
        magnitude = latents_BDhw.norm(dim=1, keepdim=True) + self.largest_value(quantizer)
        assert_close("looked up latents", quantizer.lookup(quantized.codes), quantized.latents, magnitude)

    def assert_shapes(self, quantizer: VectorQuantizer, quantized: Quantized, latents_BDhw: Tensor) -> None:
        """Assert that each part of the result has the shape and dtype that ``Quantized`` promises."""
        batch, _, height, width = latents_BDhw.shape
        several = quantizer.codes_per_position
        assert quantized.latents.shape == latents_BDhw.shape
        assert quantized.latents.dtype == latents_BDhw.dtype
        assert quantized.codes.shape == ((batch, height, width) if several == 1 else (batch, height, width, several))
        assert quantized.codes.dtype == torch.int64
        assert quantized.loss.shape == ()
        assert quantized.loss.is_floating_point()
        assert quantized.usage.shape == (quantizer.num_codes,)
        assert quantized.usage.dtype == torch.int64
