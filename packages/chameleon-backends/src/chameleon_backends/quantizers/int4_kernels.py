"""torch's kernels for ``int4``. Each wants the codes in its own order: they are packed here, and unpacked to save.

Both compute (raised − 8) · scale + zero of raised codes 0 … 15; the zeros are zero.

Shapes: O output features, I input features, G groups of a row, J = I / 2 bytes of a row, M rows of a matrix input,
X rows of a block, Y blocks, U = X / 2 bytes of a column of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..plain_weight import (
    BLOCK_OF_PRODUCT,
    BLOCK_OF_WEIGHT,
    ROWS_AT_A_TIME,
    aligned,
    block_rows,
    multiply_dense,
    product_dtype,
)
from ..weight_quantizer import LinearSpec
from .cpu_rows import INT4_ROWS, product_instructions
from .int4_codes import LOWEST, join_codes, scale_codes, split_codes

CUDA_CAPABILITY = (8, 0)


def kernel_for(spec: LinearSpec) -> type[CPUInt4Weight | CUDAInt4Weight] | None:
    """Return the kernel that is right and fast for a layer, None where there is none.

    They read bfloat16; for float32 the CPU's is a plain loop.
    """
    if spec.dtype != torch.bfloat16:
        return None
    for kernel in (CPUInt4Weight, CUDAInt4Weight):
        fits = spec.out_features % kernel.OUT_FEATURES == 0 and spec.in_features % kernel.IN_FEATURES == 0
        if spec.device.type == kernel.DEVICE and fits and kernel.runs():
            return kernel
    return None


@dataclass(frozen=True, slots=True)
class CPUInt4Weight:
    """Codes in blocks of rows, one column after another, in an order that depends on the CPU."""

    DEVICE: ClassVar[str] = "cpu"
    OUT_FEATURES: ClassVar[int] = 16
    IN_FEATURES: ClassVar[int] = 32

    packed_OJ: Tensor
    scales_and_zeros_GO2: Tensor
    group_size: int

    @staticmethod
    def runs() -> bool:
        """Return True: every build of torch has the kernel."""
        return True

    @classmethod
    def of(cls, stored: Mapping[str, Tensor], group_size: int) -> CPUInt4Weight:
        """Pack a stored weight, some blocks at a time."""
        packed_OJ = torch.empty_like(stored["weight_packed"], memory_format=torch.contiguous_format)
        for rows, X in _spans(len(packed_OJ)):
            _pack_blocks(stored["weight_packed"][rows], X, out=packed_OJ[rows])
        return cls(packed_OJ, _scales_and_zeros(stored["weight_scale"]), group_size)

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        if len(input_MI) <= INT4_ROWS[product_instructions()] and input_MI.dtype == torch.bfloat16:
            return torch._weight_int4pack_mm_for_cpu(
                aligned(input_MI), self.packed_OJ, self.group_size, self.scales_and_zeros_GO2
            )
        return self.multiply_blocks(input_MI)

    def multiply_blocks(self, input_MI: Tensor) -> Tensor:
        """Dequantize some rows at a time, in the order of columns that the packed codes have, and multiply."""
        values_MI = input_MI.to(product_dtype(input_MI))
        out_MO = values_MI.new_empty(len(values_MI), len(self.packed_OJ))
        reused_IO = BLOCK_OF_WEIGHT.take(values_MI.shape[1], min(block_rows(), len(self.packed_OJ)), values_MI.dtype)
        for rows, X in _spans(len(self.packed_OJ)):
            packed_OJ, scale_GO = self.packed_OJ[rows], self.scales_and_zeros_GO2[:, rows, 0].contiguous()
            weight_IO = reused_IO.view(-1)[: values_MI.shape[1] * len(packed_OJ)].view(-1, len(packed_OJ))
            _write_columns(packed_OJ, X, out=weight_IO)
            torch.unflatten(weight_IO, 0, (len(scale_GO), -1)).mul_(scale_GO[:, None])
            product_MO = BLOCK_OF_PRODUCT.take(len(values_MI), len(packed_OJ), values_MI.dtype)
            out_MO[:, rows] = torch.mm(values_MI, weight_IO, out=product_MO)
        return out_MO.to(input_MI.dtype)

    def stored(self) -> dict[str, Tensor]:
        """Return codes and scales in the portable order."""
        return {
            "weight_packed": join_codes(_unpack(self.packed_OJ)),
            "weight_scale": _scales(self.scales_and_zeros_GO2),
        }


@dataclass(frozen=True, slots=True)
class CUDAInt4Weight:
    """Codes in the tiles of tensor cores."""

    DEVICE: ClassVar[str] = "cuda"
    OUT_FEATURES: ClassVar[int] = 16
    IN_FEATURES: ClassVar[int] = 128
    INNER_TILES: ClassVar[int] = 8

    packed: Tensor
    scales_and_zeros_GO2: Tensor
    group_size: int

    @staticmethod
    def runs() -> bool:
        """Return whether the device has tensor cores for bfloat16."""
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= CUDA_CAPABILITY

    @classmethod
    def of(cls, stored: Mapping[str, Tensor], group_size: int) -> CUDAInt4Weight:
        """Pack a stored weight."""
        packed = torch._convert_weight_to_int4pack(stored["weight_packed"].contiguous(), cls.INNER_TILES)
        return cls(packed, _scales_and_zeros(stored["weight_scale"]), group_size)

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype, for many rows too: unpacking takes a product with I rows."""
        if input_MI.dtype == torch.bfloat16:
            return self._multiply(input_MI.contiguous(), self.scales_and_zeros_GO2)
        stored = self.stored()
        return multiply_dense(input_MI, scale_codes(split_codes(stored["weight_packed"]), stored["weight_scale"]))

    def stored(self) -> dict[str, Tensor]:
        """Return codes and scales in the portable order; a product of the unit matrix with scales of 1 is the codes."""
        ones_GO2 = _scales_and_zeros(torch.ones_like(_scales(self.scales_and_zeros_GO2)))
        unit_II = torch.eye(len(ones_GO2) * self.group_size, dtype=torch.bfloat16, device=ones_GO2.device)
        columns = [self._multiply(rows_MI, ones_GO2) for rows_MI in torch.split(unit_II, ROWS_AT_A_TIME)]
        codes_OI = torch.cat(columns).T
        return {
            "weight_packed": join_codes(codes_OI.to(torch.int8)),
            "weight_scale": _scales(self.scales_and_zeros_GO2),
        }

    def _multiply(self, input_MI: Tensor, scales_and_zeros_GO2: Tensor) -> Tensor:
        return torch._weight_int4pack_mm(input_MI, self.packed, self.group_size, scales_and_zeros_GO2)


def _scales_and_zeros(scale_OG: Tensor) -> Tensor:
    return torch.stack((scale_OG, torch.zeros_like(scale_OG)), dim=-1).transpose(0, 1).contiguous()


def _scales(scales_and_zeros_GO2: Tensor) -> Tensor:
    return scales_and_zeros_GO2[..., 0].T.contiguous()


def _pack_blocks(stored_OJ: Tensor, X: int, *, out: Tensor) -> None:
    """Pack as ``_pack`` does, from bytes of two neighbouring columns to bytes of two rows, where that takes five."""
    stored_YXJ = stored_OJ.view(-1, X, stored_OJ.shape[1])
    low_YUJ, high_YUJ = (stored_YXJ[:, _rows_of_half(X, half)] for half in (0, 1))
    packed_YJ2U = out.view(-1, stored_OJ.shape[1], 2, X // 2)
    packed_YJ2U[:, :, 0].copy_((low_YUJ >> 4).bitwise_or_(high_YUJ & 0xF0).transpose(1, 2))
    packed_YJ2U[:, :, 1].copy_((low_YUJ & 15).bitwise_or_(high_YUJ << 4).transpose(1, 2))


def _pack(raised_OI: Tensor) -> Tensor:
    return torch._convert_weight_to_int4pack_for_cpu(raised_OI.int(), 1)


def _unpack(packed_OJ: Tensor) -> Tensor:
    """Unpack the codes −8 … 7: int8 [O, I]."""
    X = _block_size()
    whole = len(packed_OJ) // X * X  # the rest is a smaller block
    codes_OI = packed_OJ.new_empty(len(packed_OJ), 2 * packed_OJ.shape[1])
    _unpack_blocks(packed_OJ[:whole], X, out=codes_OI[:whole])
    _unpack_blocks(packed_OJ[whole:], len(packed_OJ) - whole, out=codes_OI[whole:])
    return codes_OI.view(torch.int8).add_(LOWEST)


def _unpack_blocks(packed_OJ: Tensor, X: int, *, out: Tensor) -> None:
    if not len(packed_OJ):
        return
    bytes_YIU = packed_OJ.view(-1, out.shape[1], X // 2)
    bytes_YUI = bytes_YIU.transpose(1, 2).contiguous()
    rows_YXI = out.view(-1, X, out.shape[1])
    for half, digits_YUI in enumerate((bytes_YUI & 15, bytes_YUI >> 4)):
        rows_YXI[:, _rows_of_half(X, half)] = digits_YUI


def _spans(count: int) -> Iterator[tuple[slice, int]]:
    """Yield up to ``block_rows()`` rows at a time, and how many of them are in each of the kernel's blocks."""
    X, step = _block_size(), block_rows()
    whole = count // X * X
    for begin in range(0, whole, step):
        yield slice(begin, min(begin + step, whole)), X
    if whole < count:
        yield slice(whole, count), count - whole


def _write_columns(packed_OJ: Tensor, X: int, *, out: Tensor) -> None:
    """Write the codes −8 … 7 into a contiguous floating tensor [I, O]."""
    bytes_YIU = packed_OJ.view(-1, len(out), X // 2)
    columns_IYX = out.view(len(out), -1, X)
    for half, digits_YIU in enumerate((bytes_YIU & 15, bytes_YIU >> 4)):
        columns_IYX[:, :, _rows_of_half(X, half)] = digits_YIU.view(torch.int8).add_(LOWEST).transpose(0, 1)


@cache
def _block_size() -> int:
    """Return how many rows the kernel's order keeps together, found by packing the numbers of two columns."""
    columns = torch.arange(2).expand(256, 2)
    return 2 * int(_pack(columns).flatten().argmax())


@cache
def _rows_of_half(X: int, half: int) -> slice:
    """Return which rows of a block are in the low halves of its bytes, or in the high ones, in their order.

    Found by packing the numbers of the rows.
    """
    numbers = torch.arange(X)[:, None].expand(X, 2)
    low, high = (_pack(digits).flatten()[: X // 2] >> 4 * half & 15 for digits in (numbers & 15, numbers >> 4))
    rows = (low | high << 4).tolist()
    found = slice(rows[0], rows[-1] + 1, rows[1] - rows[0])
    assert list(range(X)[found]) == rows, f"torch packs the rows {rows} together, which are no slice"
    return found
