"""The decoder of the VQ-VAE: latents to pixels, the mirror of the encoder.

Shapes: B pictures, C channels, h w grid of the current level, at first the latent grid, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import GroupNorm, Level, Middle, Upsample, conv3x3, convolved_swish
from .config import ChameleonVQVAEConfig


class DecoderLevel(Level):
    """A level of the decoder, which may double the grid at its end."""

    upsample: Upsample | None

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, in, h, w] to [B, out, 2h, 2w], or to [B, out, h, w] at the last level."""
        hidden_BChw = super().forward(hidden_BChw)
        return hidden_BChw if self.upsample is None else self.upsample(hidden_BChw)


class Decoder(nn.Module):
    """The decoder of the VQGAN: a middle with attention, then levels of residual blocks."""

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.channel_multiplier]
        width = widths[-1]
        self.conv_in = conv3x3(config.latent_channels, width)
        self.mid = Middle(width, config)
        # Built from the lowest resolution up, stored in the encoder's order: up.0 is the full resolution.
        levels = []
        for i, out_width in reversed(list(enumerate(widths))):
            level = DecoderLevel(
                width, out_width, blocks=config.num_res_blocks + 1, resolution=config.resolution // 2**i, config=config
            )
            level.upsample = Upsample(out_width) if i > 0 else None
            levels.append(level)
            width = out_width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = GroupNorm(width, groups=config.norm_num_groups)
        self.conv_out = conv3x3(width, config.picture_channels)

    def forward(self, latents_BChw: Tensor) -> Tensor:
        """Map latents [B, latent_channels, h, w] to pixels [B, picture_channels, H, W]."""
        hidden_BChw = self.mid(self.conv_in(latents_BChw))
        for level in reversed(self.up):
            hidden_BChw = level(hidden_BChw)
        return convolved_swish(hidden_BChw, self.norm_out, self.conv_out)
