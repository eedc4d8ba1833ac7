"""Pixels to latents. Shapes: B pictures, C channels, H W pixels, h w latent grid."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Downsample, GroupNorm, Level, Middle, conv3x3, swish
from .config import ChameleonVQVAEConfig


class EncoderLevel(Level):
    """A level that may halve the picture at its end."""

    downsample: Downsample | None

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H/2, W/2], or [B, out, H, W] at the last level."""
        hidden_BCHW = super().forward(hidden_BCHW)
        return hidden_BCHW if self.downsample is None else self.downsample(hidden_BCHW)


class Encoder(nn.Module):
    """The encoder of the VQGAN."""

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
        """[B, in_channels, H, W] to [B, latent_channels (twice with double_latent), h, w]."""
        hidden_BCHW = self.conv_in(pixels_BCHW)
        for level in self.down:
            hidden_BCHW = level(hidden_BCHW)
        hidden_BChw = self.mid(hidden_BCHW)
        return self.conv_out(swish(self.norm_out(hidden_BChw)))
