"""torch's kernels for ``int4``, which each want the codes in an order of their own: packed here, and unpacked to save.

Both compute (raised − 8) · scale + zero of raised codes 0 … 15; the zeros are zero.

Shapes: O output features, I input features, g groups in a row, J = I / 2 bytes in a row, N rows of input,
B rows of a block, b blocks, H = B / 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..weights import LinearSpec
from .int4 import LOWEST, join_codes, scale_codes, split_codes
from .plain import KERNEL_ROWS, ROWS_AT_A_TIME, aligned, multiply_dense

CUDA_CAPABILITY = (8, 0)


def kernel_for(spec: LinearSpec) -> type[CPUInt4Weight | CUDAInt4Weight] | None:
    """The kernel that is right and fast for a layer. They read bfloat16; for float32 the CPU's is a plain loop."""
    if spec.dtype != torch.bfloat16:
        return None
    for kernel in (CPUInt4Weight, CUDAInt4Weight):
        fits = spec.out_features % kernel.OUT_FEATURES == 0 and spec.in_features % kernel.IN_FEATURES == 0
        if spec.device.type == kernel.DEVICE and fits and kernel.runs():
            return kernel
    return None


@dataclass(frozen=True, slots=True)
class CPUInt4Weight:
    """Codes in blocks of rows, one column after another, in an order that depends on the processor."""

    DEVICE: ClassVar[str] = "cpu"
    OUT_FEATURES: ClassVar[int] = 16
    IN_FEATURES: ClassVar[int] = 32

    packed_OJ: Tensor
    scales_and_zeros_gO2: Tensor
    group_size: int

    @staticmethod
    def runs() -> bool:
        """Every build of torch has it."""
        return True

    @classmethod
    def of(cls, stored: Mapping[str, Tensor], group_size: int) -> CPUInt4Weight:
        """Pack a stored weight, some blocks at a time, since torch takes each code as an int32."""
        pieces = [
            _pack(split_codes(rows_OJ) - LOWEST) for rows_OJ in torch.split(stored["weight_packed"], ROWS_AT_A_TIME)
        ]
        return cls(torch.cat(pieces), _scales_and_zeros(stored["weight_scale"]), group_size)

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``out_NO`` in the input's dtype."""
        if len(input_NI) <= KERNEL_ROWS and input_NI.dtype == torch.bfloat16:
            return torch._weight_int4pack_mm_for_cpu(
                aligned(input_NI), self.packed_OJ, self.group_size, self.scales_and_zeros_gO2
            )
        return multiply_dense(input_NI, scale_codes(_unpack(self.packed_OJ), _scales(self.scales_and_zeros_gO2)))

    def stored(self) -> dict[str, Tensor]:
        """Codes and scales in the portable order."""
        return {
            "weight_packed": join_codes(_unpack(self.packed_OJ)),
            "weight_scale": _scales(self.scales_and_zeros_gO2),
        }


@dataclass(frozen=True, slots=True)
class CUDAInt4Weight:
    """Codes in the tiles of tensor cores."""

    DEVICE: ClassVar[str] = "cuda"
    OUT_FEATURES: ClassVar[int] = 16
    IN_FEATURES: ClassVar[int] = 128
    INNER_TILES: ClassVar[int] = 8

    packed: Tensor
    scales_and_zeros_gO2: Tensor
    group_size: int

    @staticmethod
    def runs() -> bool:
        """It needs tensor cores for bfloat16."""
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= CUDA_CAPABILITY

    @classmethod
    def of(cls, stored: Mapping[str, Tensor], group_size: int) -> CUDAInt4Weight:
        """Pack a stored weight."""
        packed = torch._convert_weight_to_int4pack(stored["weight_packed"].contiguous(), cls.INNER_TILES)
        return cls(packed, _scales_and_zeros(stored["weight_scale"]), group_size)

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``out_NO`` in the input's dtype. Many rows too: to unpack takes a product with I rows."""
        if input_NI.dtype == torch.bfloat16:
            return self._multiply(input_NI.contiguous(), self.scales_and_zeros_gO2)
        stored = self.stored()
        return multiply_dense(input_NI, scale_codes(split_codes(stored["weight_packed"]), stored["weight_scale"]))

    def stored(self) -> dict[str, Tensor]:
        """Codes and scales in the portable order. Column by column, the product with 1 and a scale of 1 is the code."""
        ones_gO2 = _scales_and_zeros(torch.ones_like(_scales(self.scales_and_zeros_gO2)))
        unit_II = torch.eye(len(ones_gO2) * self.group_size, dtype=torch.bfloat16, device=ones_gO2.device)
        columns = [self._multiply(rows_NI, ones_gO2) for rows_NI in torch.split(unit_II, ROWS_AT_A_TIME)]
        codes_OI = torch.cat(columns).T
        return {
            "weight_packed": join_codes(codes_OI.to(torch.int8)),
            "weight_scale": _scales(self.scales_and_zeros_gO2),
        }

    def _multiply(self, input_NI: Tensor, scales_and_zeros_gO2: Tensor) -> Tensor:
        return torch._weight_int4pack_mm(input_NI, self.packed, self.group_size, scales_and_zeros_gO2)


def _scales_and_zeros(scale_Og: Tensor) -> Tensor:
    return torch.stack((scale_Og, torch.zeros_like(scale_Og)), dim=-1).transpose(0, 1).contiguous()


def _scales(scales_and_zeros_gO2: Tensor) -> Tensor:
    return scales_and_zeros_gO2[..., 0].T.contiguous()


def _pack(raised_OI: Tensor) -> Tensor:
    return torch._convert_weight_to_int4pack_for_cpu(raised_OI.int(), 1)


def _unpack(packed_OJ: Tensor) -> Tensor:
    """The codes −8 … 7 of packed ones, int8 [O, I]."""
    B = _block_size()
    whole = len(packed_OJ) // B * B  # what is left over is a smaller block
    codes_OI = packed_OJ.new_empty(len(packed_OJ), 2 * packed_OJ.shape[1])
    _unpack_blocks(packed_OJ[:whole], B, out=codes_OI[:whole])
    _unpack_blocks(packed_OJ[whole:], len(packed_OJ) - whole, out=codes_OI[whole:])
    return codes_OI.view(torch.int8).add_(LOWEST)


def _unpack_blocks(packed_OJ: Tensor, B: int, *, out: Tensor) -> None:
    if not len(packed_OJ):
        return
    bytes_bIH = packed_OJ.view(-1, out.shape[1], B // 2)
    bytes_bHI = bytes_bIH.transpose(1, 2).contiguous()
    rows_bBI = out.view(-1, B, out.shape[1])
    for half, digits_bHI in enumerate((bytes_bHI & 15, bytes_bHI >> 4)):
        rows_bBI[:, _rows_of_half(B, half)] = digits_bHI


@cache
def _block_size() -> int:
    """How many rows the kernel's order keeps together. Found by packing the numbers of two columns."""
    columns = torch.arange(2).expand(256, 2)
    return 2 * int(_pack(columns).flatten().argmax())


@cache
def _rows_of_half(B: int, half: int) -> slice:
    """Which rows of a block are in the low halves of its bytes, or in the high ones, in their order.

    Found by packing the numbers of the rows.
    """
    numbers = torch.arange(B)[:, None].expand(B, 2)
    low, high = (_pack(digits).flatten()[: B // 2] >> 4 * half & 15 for digits in (numbers & 15, numbers >> 4))
    rows = (low | high << 4).tolist()
    found = slice(rows[0], rows[-1] + 1, rows[1] - rows[0])
    assert list(range(B)[found]) == rows, f"torch packs the rows {rows} together, which no slice has"
    return found
