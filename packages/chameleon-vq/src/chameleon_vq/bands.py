"""Normalize, activate and convolve large grids in bands of rows, for inference on a CPU.

Of a picture of 512×512 pixels each intermediate result takes 134 MB, and giving it fresh memory takes a good part of
the time of a convolution. Here nothing of that size is made but the result: a band is prepared, convolved and put in
its place while it is in the processor's cache. Statistics are over the whole grid, so the results are those of the
modules: with channels last up to rounding, and of contiguous grids bit for bit, since the same kernels add up the same
numbers in the same order (but for a few values where the number of threads isn't a power of two).

Contiguous grids are computed so in float32 alone, in which they are more exact: oneDNN adds up the products of a
convolution 144 at a time there, and with channels last all 9·C of them one after the other, which has 3 to 5 times the
rounding error with 128 to 512 channels.

Shapes: B pictures, C channels, h w grid of the current level, r rows of a band, G groups, X channels of a group, Y
parts of a grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BAND = 2**23
"""Bytes of a band: few enough for caches and for the same memory to be used again, enough for several threads."""
_POSITIONS = 2**13
"""Positions that are summed in float32, before their sums are combined in float64."""
_STEPS = (((1, 1), (1, 1)), ((2, 2), (0, 0)))
"""Stride and padding of the convolutions that are computed here: those that keep a grid, and those that halve it."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Prepare = Callable[[Tensor, Tensor], object]
"""Writes what is convolved of rows [1, C, r, w] of a grid to a tensor of the same shape, the second argument."""


def has_bands(hidden_BChw: Tensor, *layers: nn.Module) -> bool:
    """Return whether a grid is computed in bands: a large one on a CPU, without gradients, by layers as they are made.

    Whoever wraps a layer or hooks into it is given its whole input, and computes its output.
    """
    is_contiguous = hidden_BChw.is_contiguous() and hidden_BChw.dtype == torch.float32
    return (
        not torch.is_grad_enabled()
        and type(hidden_BChw) is Tensor
        and hidden_BChw.device.type == "cpu"
        and hidden_BChw.dtype in _DTYPES
        and hidden_BChw[:1].numel() * hidden_BChw.element_size() > BAND
        and (is_contiguous or is_channels_last(hidden_BChw))
        and not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
        and all(_is_plain(layer, hidden_BChw.dtype) for layer in layers)
    )


def is_channels_last(hidden_BChw: Tensor) -> bool:
    """Return whether the channels of a position are adjacent in memory."""
    return hidden_BChw.is_contiguous(memory_format=torch.channels_last) and not hidden_BChw.is_contiguous()


def _layout(hidden_BChw: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(hidden_BChw) else torch.contiguous_format


def _is_plain(layer: nn.Module, dtype: torch.dtype) -> bool:
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    if hooked or any(each.dtype != dtype for each in layer.parameters()):
        return False
    if isinstance(layer, nn.Dropout):
        return not (layer.training and layer.p)
    if isinstance(layer, nn.Conv2d):
        sizes = (layer.kernel_size, layer.dilation, layer.groups, layer.padding_mode)
        steps = (layer.stride, layer.padding)
        return type(layer) is nn.Conv2d and sizes == ((3, 3), (1, 1), 1, "zeros") and steps in _STEPS
    return isinstance(layer, nn.GroupNorm)


def swish_convolution(
    hidden_BChw: Tensor,
    norm: nn.GroupNorm,
    conv: nn.Conv2d,
    *,
    out: Tensor | None = None,
    shortcut: Tensor | None = None,
) -> Tensor:
    """Return the convolution of the activated norm of a grid, plus ``shortcut``; ``out`` may be the grid itself."""
    if out is None:
        out = _empty(hidden_BChw, (len(hidden_BChw), conv.out_channels, *hidden_BChw.shape[2:]))
    for index in range(len(hidden_BChw)):
        picture = slice(index, index + 1)
        if is_channels_last(hidden_BChw):
            prepare = partial(_swish_of_norm, *_scale_and_shift(hidden_BChw[picture], norm))
        else:
            prepare = partial(_same_swish_of_norm, *_same_scale_and_shift(hidden_BChw[picture], norm))
        _convolve(hidden_BChw[picture], conv, prepare, out[picture], None if shortcut is None else shortcut[picture])
    return out


def _swish_of_norm(scale_C: Tensor, shift_C: Tensor, rows_1Crw: Tensor, into_1Crw: Tensor) -> None:
    """Write swish(x · scale + shift), the activated norm whose statistics are known."""
    zeros_C, ones_C, unused = torch.zeros_like(scale_C), torch.ones_like(scale_C), torch.empty(0)
    # A batch norm by given statistics is the fastest x · scale + shift: one pass, in float32, whatever the dtype.
    torch.native_batch_norm(
        rows_1Crw, scale_C, shift_C, zeros_C, ones_C, False, 0.0, 0.0, out=(into_1Crw, unused, unused)
    )
    F.silu(into_1Crw, inplace=True)


def _scale_and_shift(hidden_1Chw: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return what each channel of a picture is multiplied by and what is added, for its group norm: float32 [C]."""
    rows = max(_POSITIONS // hidden_1Chw.shape[3], 1)
    # Of its own dtype a running mean would make the statistics bfloat16.
    running_C = torch.zeros(hidden_1Chw.shape[1])
    parts = torch.split(hidden_1Chw, rows, dim=2)
    moments = [torch.batch_norm_update_stats(part_1Crw, running_C, running_C, 0.0) for part_1Crw in parts]
    means_YGX, variances_YGX = (
        torch.stack(each).double().view(len(parts), norm.num_groups, -1) for each in zip(*moments, strict=True)
    )
    share_Y11 = torch.tensor([part.shape[2] for part in parts]).double()[:, None, None] / hidden_1Chw.shape[2]
    mean_G1 = (means_YGX * share_Y11).sum(dim=0).mean(dim=1, keepdim=True)
    spread_YGX = variances_YGX + (means_YGX - mean_G1).square()
    variance_G1 = (spread_YGX * share_Y11).sum(dim=0).mean(dim=1, keepdim=True)
    scale_GX = torch.rsqrt(variance_G1 + norm.eps) * norm.weight.view(norm.num_groups, -1)
    shift_GX = norm.bias.view(norm.num_groups, -1) - mean_G1 * scale_GX
    return scale_GX.float().flatten(), shift_GX.float().flatten()


def _same_swish_of_norm(scale_C11: Tensor, shift_C11: Tensor, rows_1Crw: Tensor, into_1Crw: Tensor) -> None:
    """Write the activated norm of contiguous rows as the modules compute it, bit for bit."""
    normed_1Crw = torch.addcmul(shift_C11, rows_1Crw, scale_C11)  # one rounding where the norm's kernel has one
    # Of adjacent memory: the values at the end that fill no vector register are computed with another exponential.
    torch.mul(normed_1Crw, torch.sigmoid(normed_1Crw), out=into_1Crw)


def _same_scale_and_shift(hidden_1Chw: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return what the norm's kernel multiplies each channel of a contiguous picture by, and what it adds: [C, 1, 1]."""
    _, channels, height, width = hidden_1Chw.shape
    groups, size = norm.num_groups, channels // norm.num_groups
    # The kernel writes the norm, too, which isn't used: of a few groups at a time it stays in the cache.
    few = max(BAND // (size * height * width * hidden_1Chw.element_size()), torch.get_num_threads())
    moments = [
        torch.native_group_norm(
            part_1Yhw, None, None, 1, part_1Yhw.shape[1], height * width, part_1Yhw.shape[1] // size, norm.eps
        )[1:]
        for part_1Yhw in torch.split(hidden_1Chw, few * size, dim=1)
    ]
    mean_G1, factor_G1 = (torch.cat(each, dim=1).view(groups, 1) for each in zip(*moments, strict=True))
    scale_GX = factor_G1 * norm.weight.view(groups, size)
    shift_GX = torch.addcmul(norm.bias.view(groups, size), scale_GX, mean_G1, value=-1)
    return scale_GX.view(channels, 1, 1), shift_GX.view(channels, 1, 1)


def _convolve(
    hidden_1Chw: Tensor, conv: nn.Conv2d, prepare: Prepare, out_1Chw: Tensor, shortcut_1Chw: Tensor | None
) -> None:
    """Write the convolution of what ``prepare`` makes of a picture's rows, plus ``shortcut``, to ``out``.

    Each row is prepared once, before ``out`` is written there, so that ``out`` may be the picture itself.
    """
    _, channels, height, width = hidden_1Chw.shape
    rows = _rows_of_a_band(hidden_1Chw)
    weight = conv.weight.contiguous(memory_format=_layout(hidden_1Chw))
    # The rows of a band, with the row above and the row below.
    band_1Crw = _empty(hidden_1Chw, (1, channels, rows + 2, width))
    prepared = 0
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if top == 0:
            band_1Crw[:, :, 0] = 0
        else:
            band_1Crw[:, :, :2] = band_1Crw[:, :, rows : rows + 2]
        above, stop = (1 if top == 0 else 2), min(bottom + 1, height)
        prepare(hidden_1Chw[:, :, prepared:stop], band_1Crw[:, :, above : above + stop - prepared])
        prepared = stop
        if bottom == height:
            band_1Crw[:, :, bottom - top + 1] = 0
        convolved_1Crw = F.conv2d(band_1Crw[:, :, : bottom - top + 2], weight, conv.bias, padding=(0, 1))
        target_1Crw = out_1Chw[:, :, top:bottom]
        if shortcut_1Chw is None:
            target_1Crw.copy_(convolved_1Crw)
        else:
            torch.add(shortcut_1Chw[:, :, top:bottom], convolved_1Crw, out=target_1Crw)


def halving_convolution(hidden_BChw: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the convolution of stride 2 of a grid with zeros to the right and below."""
    batch, channels, height, width = hidden_BChw.shape
    out_BChw = _empty(hidden_BChw, (batch, conv.out_channels, height // 2, width // 2))
    rows = _rows_of_a_band(hidden_BChw) // 2
    weight = conv.weight.contiguous(memory_format=_layout(hidden_BChw))
    band_1Crw = _empty(hidden_BChw, (1, channels, 2 * rows + 1, width + 1))
    band_1Crw[:, :, :, width] = 0
    for index in range(batch):
        for top in range(0, height // 2, rows):
            bottom = min(top + rows, height // 2)
            stop = min(2 * bottom + 1, height)
            band_1Crw[:, :, : stop - 2 * top, :width] = hidden_BChw[index, :, 2 * top : stop]
            if stop < 2 * bottom + 1:
                band_1Crw[:, :, stop - 2 * top] = 0
            convolved_1Crw = F.conv2d(band_1Crw[:, :, : 2 * (bottom - top) + 1], weight, conv.bias, stride=2)
            out_BChw[index : index + 1, :, top:bottom] = convolved_1Crw
    return out_BChw


def doubling_convolution(hidden_BChw: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the convolution of a grid whose every position is repeated in 2×2 positions.

    A 3×3 window of the repeated grid holds 2×2 positions of the grid itself, some of them several times. So the results
    in even and odd rows and columns are four convolutions of 2×2 weights, sums of the 3×3: 4 products in place of 9.
    """
    batch, channels, height, width = hidden_BChw.shape
    out_BChw = _empty(hidden_BChw, (batch, conv.out_channels, 2 * height, 2 * width))
    rows = max(_rows_of_a_band(hidden_BChw) // 4, 1)
    band_1Crw = _empty(hidden_BChw, (1, channels, rows + 2, width))
    weights = {
        odd: _of_pairs(conv.weight, *odd).to(hidden_BChw.dtype, memory_format=torch.channels_last)
        for odd in itertools.product((0, 1), repeat=2)
    }
    for index in range(batch):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            start, stop = max(top - 1, 0), min(bottom + 1, height)
            band_1Crw[:, :, 0] = 0
            band_1Crw[:, :, bottom - top + 1] = 0
            band_1Crw[:, :, start - top + 1 : stop - top + 1] = hidden_BChw[index, :, start:stop]
            for (odd_row, odd_column), weight in weights.items():
                source_1Crw = band_1Crw[:, :, odd_row : odd_row + bottom - top + 1]
                convolved_1Crw = F.conv2d(source_1Crw, weight, conv.bias, padding=(0, 1))
                target_Crw = out_BChw[index, :, 2 * top + odd_row : 2 * bottom : 2, odd_column::2]
                target_Crw.copy_(convolved_1Crw[0, :, :, odd_column : odd_column + width])
    return out_BChw


def _of_pairs(weight: Tensor, odd_row: int, odd_column: int) -> Tensor:
    """Return the 2×2 weights of the even or odd rows and columns of a convolution of repeated positions."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    for dim, odd in ((2, odd_row), (3, odd_column)):
        first, middle, last = torch.split(weight, 1, dim=dim)
        weight = torch.cat([first + middle, last] if odd else [first, middle + last], dim=dim)
    return weight


def _rows_of_a_band(hidden_BChw: Tensor) -> int:
    """Return how many rows of a grid are computed together: at least two, so that those of two bands don't overlap."""
    return max(BAND // (hidden_BChw[0, :, 0].numel() * hidden_BChw.element_size()), 2)


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=_layout(like))
