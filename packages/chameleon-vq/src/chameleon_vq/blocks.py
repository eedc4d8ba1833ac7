"""The pieces that encoder and decoder are made of, with upstream's state-dict names.

Source: taming-transformers, ``taming/modules/diffusionmodules/model.py``.
Shapes: B pictures, C channels, H W of the current level, P = H·W positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import GROUPS, ChameleonVQVAEConfig


class GroupNorm(nn.GroupNorm):
    """The normalisation used throughout, in the reference with 32 groups: eps 1e-6.

    On a CPU and channels last, PyTorch's kernel sums a group's values one after another, which is off by 2e-4 on a
    512² picture; there the statistics are summed row by row and the rows in float64.
    """

    def __init__(self, channels: int, *, groups: int = GROUPS) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        exact = hidden_BCHW.device.type == "cpu" and hidden_BCHW.dtype == torch.float32
        if exact and is_channels_last(hidden_BCHW):
            return self._channels_last(hidden_BCHW)
        # Not F.group_norm, which refuses a group of a single value: one position of a narrow level.
        return torch.group_norm(hidden_BCHW, self.num_groups, self.weight, self.bias, self.eps)

    def _channels_last(self, hidden_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = hidden_BCHW.shape
        hidden_BHWC = hidden_BCHW.permute(0, 2, 3, 1)
        sums_BHC = hidden_BHWC.sum(dim=2)
        norms_BHC = torch.linalg.vector_norm(hidden_BHWC, dim=2)
        # To groups G of E channels each.
        groups = self.num_groups
        count = height * width * channels // groups
        mean_BG1 = sums_BHC.double().sum(dim=1).view(batch, groups, -1).sum(dim=2, keepdim=True) / count
        square_BG1 = norms_BHC.double().square().sum(dim=1).view(batch, groups, -1).sum(dim=2, keepdim=True) / count
        variance_BG1 = (square_BG1 - mean_BG1.square()).clamp(min=0)  # rounding makes that of a flat group negative
        scale_BGE = torch.rsqrt(variance_BG1 + self.eps) * self.weight.view(groups, -1)
        shift_BGE = self.bias.view(groups, -1) - mean_BG1 * scale_BGE
        per_channel = (batch, channels, 1, 1)
        return torch.addcmul(shift_BGE.float().view(per_channel), hidden_BCHW, scale_BGE.float().view(per_channel))


def is_channels_last(hidden_BCHW: Tensor) -> bool:
    """Whether the values of a pixel lie together."""
    return hidden_BCHW.is_contiguous(memory_format=torch.channels_last) and not hidden_BCHW.is_contiguous()


def swish(hidden_BCHW: Tensor) -> Tensor:
    """The activation used throughout, of a norm's output: x · sigmoid(x).

    In two steps, as upstream does it, so that latents agree to the last digits. Channels last they don't anyway, as
    convolutions add up in another order; there it is fused, and overwrites its input where no gradient is recorded.
    """
    if is_channels_last(hidden_BCHW):
        return F.silu(hidden_BCHW, inplace=not torch.is_grad_enabled())
    return hidden_BCHW * torch.sigmoid(hidden_BCHW)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class ResnetBlock(nn.Module):
    """Norm, swish, convolution, twice, around a shortcut; the shortcut is 1×1 where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, groups=groups)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, groups=groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.nin_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H, W]."""
        branch_BCHW = self.conv1(swish(self.norm1(hidden_BCHW)))
        branch_BCHW = self.conv2(self.dropout(swish(self.norm2(branch_BCHW))))
        shortcut_BCHW = hidden_BCHW if self.nin_shortcut is None else self.nin_shortcut(hidden_BCHW)
        return shortcut_BCHW + branch_BCHW


class AttentionBlock(nn.Module):
    """Single-head attention between all positions, around a shortcut."""

    def __init__(self, channels: int, *, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups=groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        normed_BCHW = self.norm(hidden_BCHW)
        attended_BPC = F.scaled_dot_product_attention(
            _positions(self.q(normed_BCHW)), _positions(self.k(normed_BCHW)), _positions(self.v(normed_BCHW))
        )
        attended_BCHW = attended_BPC.transpose(1, 2).view(hidden_BCHW.shape)
        return hidden_BCHW + self.proj_out(attended_BCHW)


def _positions(hidden_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] to [B, P, C]."""
    return hidden_BCHW.flatten(2).transpose(1, 2)


class Downsample(nn.Module):
    """Half the height and width. The zeros go right and below only, so that the grid starts at the first pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H/2, W/2]."""
        return self.conv(F.pad(hidden_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(hidden_BCHW, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.block_1 = ResnetBlock(channels, channels, dropout=config.dropout, groups=groups)
        self.attn_1 = AttentionBlock(channels, groups=groups) if config.has_attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, dropout=config.dropout, groups=groups)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(hidden_BCHW)))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where the configuration asks for it."""

    def __init__(
        self, in_channels: int, out_channels: int, *, blocks: int, resolution: int, config: ChameleonVQVAEConfig
    ) -> None:
        super().__init__()
        widths, groups = [in_channels] + [out_channels] * blocks, config.norm_num_groups
        self.block = nn.ModuleList(
            ResnetBlock(widths[i], widths[i + 1], dropout=config.dropout, groups=groups) for i in range(blocks)
        )
        attends = config.has_attention and resolution in (config.attn_resolutions or ())
        self.attn = nn.ModuleList(AttentionBlock(out_channels, groups=groups) for _ in range(blocks if attends else 0))

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H, W]."""
        for i, block in enumerate(self.block):
            hidden_BCHW = block(hidden_BCHW)
            if len(self.attn):
                hidden_BCHW = self.attn[i](hidden_BCHW)
        return hidden_BCHW
