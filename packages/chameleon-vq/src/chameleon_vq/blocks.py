"""The blocks of encoder and decoder, with the state-dict names of Meta's release.

Source: taming-transformers, ``taming/modules/diffusionmodules/model.py``.
Shapes: B pictures, C channels, h w grid of the current level, M = h·w positions, G groups, X channels of a group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bands import doubling_convolution, halving_convolution, has_bands, is_channels_last, swish_convolution
from .config import GROUPS, ChameleonVQVAEConfig


class GroupNorm(nn.GroupNorm):
    """The group norm used throughout, with eps 1e-6; ``transformers`` has 32 groups.

    On a CPU with channels last, PyTorch's kernel sums a group's values one by one, with an error of 2e-4 on a picture
    of 512×512 pixels; here the statistics are summed by row, and the rows in float64.
    """

    def __init__(self, channels: int, *, groups: int = GROUPS) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        exact = hidden_BChw.device.type == "cpu" and hidden_BChw.dtype == torch.float32
        if exact and is_channels_last(hidden_BChw):
            return self._channels_last(hidden_BChw)
        # Not F.group_norm, which refuses groups of one value: one position of a narrow level.
        return torch.group_norm(hidden_BChw, self.num_groups, self.weight, self.bias, self.eps)

    def _channels_last(self, hidden_BChw: Tensor) -> Tensor:
        batch, channels, height, width = hidden_BChw.shape
        hidden_BhwC = hidden_BChw.permute(0, 2, 3, 1)
        sums_BhC = hidden_BhwC.sum(dim=2)
        squares_BhC = hidden_BhwC.square().sum(dim=2)
        groups = self.num_groups
        count = height * width * channels // groups
        mean_BG1 = sums_BhC.double().sum(dim=1).view(batch, groups, -1).sum(dim=2, keepdim=True) / count
        square_BG1 = squares_BhC.double().sum(dim=1).view(batch, groups, -1).sum(dim=2, keepdim=True) / count
        variance_BG1 = (square_BG1 - mean_BG1.square()).clamp(min=0)  # rounding can make it negative in a flat group
        scale_BGX = torch.rsqrt(variance_BG1 + self.eps) * self.weight.view(groups, -1)
        shift_BGX = self.bias.view(groups, -1) - mean_BG1 * scale_BGX
        per_channel = (batch, channels, 1, 1)
        return torch.addcmul(shift_BGX.float().view(per_channel), hidden_BChw, scale_BGX.float().view(per_channel))


def swish(hidden_BChw: Tensor) -> Tensor:
    """Apply the activation used throughout, x · sigmoid(x), to a norm's output.

    It is computed in two steps, as in Meta's code, so that latents agree to the last digits. With channels last they
    don't anyway, because convolutions sum in another order; there it is fused. Without gradients no memory is taken
    that can be reused.
    """
    if is_channels_last(hidden_BChw):
        return F.silu(hidden_BChw, inplace=not torch.is_grad_enabled())
    gate_BChw = torch.sigmoid(hidden_BChw)
    return hidden_BChw * gate_BChw if torch.is_grad_enabled() else gate_BChw.mul_(hidden_BChw)


def convolved_swish(hidden_BChw: Tensor, norm: GroupNorm, conv: nn.Conv2d) -> Tensor:
    """Return the convolution of the activated norm, [B, out, h, w]."""
    if has_bands(hidden_BChw, norm, conv):
        return swish_convolution(hidden_BChw, norm, conv)
    convolved_BChw: Tensor = conv(swish(norm(hidden_BChw)))
    return convolved_BChw


def plus(branch_BChw: Tensor, shortcut_BChw: Tensor) -> Tensor:
    """Return a block's result and its shortcut added up, in the memory of the first if no gradient is recorded."""
    alike = branch_BChw.dtype == shortcut_BChw.dtype and branch_BChw.stride() == shortcut_BChw.stride()
    if torch.is_grad_enabled() or not alike:
        return shortcut_BChw + branch_BChw  # in the layout of the shortcut
    return branch_BChw.add_(shortcut_BChw)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3×3 convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class ResnetBlock(nn.Module):
    """Norm, swish and convolution, twice, with a shortcut; a 1×1 convolution if the width changes."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, groups=groups)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, groups=groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.nin_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, in, h, w] to [B, out, h, w]."""
        shortcut_BChw = hidden_BChw if self.nin_shortcut is None else self.nin_shortcut(hidden_BChw)
        branch_BChw = convolved_swish(hidden_BChw, self.norm1, self.conv1)
        if has_bands(branch_BChw, self.norm2, self.dropout, self.conv2):
            return swish_convolution(branch_BChw, self.norm2, self.conv2, out=branch_BChw, shortcut=shortcut_BChw)
        branch_BChw = self.conv2(self.dropout(swish(self.norm2(branch_BChw))))
        return plus(branch_BChw, shortcut_BChw)


class AttentionBlock(nn.Module):
    """Single-head attention between all positions, with a shortcut."""

    def __init__(self, channels: int, *, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups=groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        normed_BChw = self.norm(hidden_BChw)
        attended_BMC = F.scaled_dot_product_attention(
            _positions(self.q(normed_BChw)), _positions(self.k(normed_BChw)), _positions(self.v(normed_BChw))
        )
        attended_BChw = attended_BMC.transpose(1, 2).view(hidden_BChw.shape)
        return plus(self.proj_out(attended_BChw), hidden_BChw)


def _positions(hidden_BChw: Tensor) -> Tensor:
    """Flatten [B, C, h, w] to [B, M, C]."""
    return hidden_BChw.flatten(2).transpose(1, 2)


class Downsample(nn.Module):
    """Halves height and width. Zeros are padded only right and below, so the grid starts at the first position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, h/2, w/2]."""
        if _is_miscomputed(hidden_BChw):
            wider_BChw = self.conv(F.pad(hidden_BChw, (0, 3, 0, 1)))
            return wider_BChw[:, :, :, :1].contiguous(memory_format=torch.channels_last)
        if has_bands(hidden_BChw, self.conv):
            return halving_convolution(hidden_BChw, self.conv)
        return self.conv(F.pad(hidden_BChw, (0, 1, 0, 1)))


def _is_miscomputed(hidden_BChw: Tensor) -> bool:
    """Return whether PyTorch may halve a grid to numbers that have nothing to do with it.

    On processors with AMX, torch 2.13 does so in bfloat16 if the stride is above 1 and the result is one column wide
    and at least five rows high. If it is wider, the first column is right.
    """
    return hidden_BChw.dtype == torch.bfloat16 and hidden_BChw.device.type == "cpu" and hidden_BChw.shape[3] in (2, 3)


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C, 2h, 2w]."""
        if is_channels_last(hidden_BChw) and has_bands(hidden_BChw, self.conv):
            return doubling_convolution(hidden_BChw, self.conv)
        return self.conv(F.interpolate(hidden_BChw, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """A block, attention and a block, at the lowest resolution."""

    def __init__(self, channels: int, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.block_1 = ResnetBlock(channels, channels, dropout=config.dropout, groups=groups)
        self.attn_1 = AttentionBlock(channels, groups=groups) if config.has_attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, dropout=config.dropout, groups=groups)

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(hidden_BChw)))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the configuration asks for it."""

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

    def forward(self, hidden_BChw: Tensor) -> Tensor:
        """Map [B, in, h, w] to [B, out, h, w]."""
        for i, block in enumerate(self.block):
            hidden_BChw = block(hidden_BChw)
            if len(self.attn):
                hidden_BChw = self.attn[i](hidden_BChw)
        return hidden_BChw
