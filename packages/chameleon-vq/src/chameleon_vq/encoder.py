"""The encoder of the VQ-VAE: pixels to latents.

Shapes: B pictures, C channels, H W pixels, h w grid of the current level, in the end the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Downsample, GroupNorm, Level, Middle, conv3x3, convolved_swish
from .config import ChameleonVQVAEConfig


class EncoderLevel(Level):
    """A level of the encoder, which may halve the grid at its end."""

    downsample: Downsample | None

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, in, h, w] to [B, out, h/2, w/2], or to [B, out, h, w] at the last level."""
        hidden_BChw = super().forward(hidden_BChw)
        return hidden_BChw if self.downsample is None else self.downsample(hidden_BChw)


class Encoder(nn.Module):
    """The encoder of the VQGAN: levels of residual blocks, then a middle with attention."""

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.channel_multiplier]
        self.conv_in = conv3x3(config.in_channels, config.base_channels)
        self.down = nn.ModuleList()
        width = config.base_channels
        for i, out_width in enumerate(widths):
            level = EncoderLevel(
                width, out_width, blocks=config.num_res_blocks, resolution=config.resolution // 2**i, config=config
            )
            level.downsample = Downsample(out_width) if i < len(widths) - 1 else None
            self.down.append(level)
            width = out_width
        self.mid = Middle(width, config)
        self.norm_out = GroupNorm(width, groups=config.norm_num_groups)
        self.conv_out = conv3x3(width, config.latent_channels * (2 if config.double_latent else 1))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map pixels to the latent grid: [B, latent_channels (twice with ``double_latent``), h, w]."""
        hidden_BChw = self.conv_in(pixels_BCHW)
        for level in self.down:
            hidden_BChw = level(hidden_BChw)
        hidden_BChw = self.mid(hidden_BChw)
        return convolved_swish(hidden_BChw, self.norm_out, self.conv_out)
