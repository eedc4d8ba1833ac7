"""``int8``: eight bits a weight, symmetric, with one scale for each output row.

Scales are bfloat16: they take half the bytes, every kernel reads them as they are, and the product with a code is exact
in float32. The nearest bfloat16 is within 2⁻⁸ of amax / 127, so that the largest value still becomes ±127 (126.5 to
127.5 before rounding). Nothing is clipped, each weight is off by at most half a step, and quantizing again finds the
same scale.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plain_weight import (
    BLOCK_OF_PRODUCT,
    BLOCK_OF_WEIGHT,
    aligned,
    block_rows,
    by_rows,
    check_finite,
    multiply_dense,
    product_dtype,
)
from ..weight_quantizer import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .cpu_rows import INT8_ROWS, product_instructions

LARGEST = 127
TINY = torch.finfo(torch.bfloat16).tiny
# The kernels read this many columns at a time, without checking that there are as many.
KERNEL_COLUMNS = 16
# On CUDA each row of input reads the whole weight again, so that dequantizing it soon pays off.
CUDA_KERNEL_ROWS = 4


@dataclass(frozen=True)
class Int8Quantizer(WeightQuantizer):
    """The quantizer; it has no options."""

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return the layout: codes −127 … 127, and the scale of each row."""
        return {
            "weight": TensorLayout(torch.int8, (out_features, in_features)),
            "weight_scale": TensorLayout(torch.bfloat16, (out_features,)),
        }

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return codes and scales. Raises ``UnsupportedWeightError`` where a value isn't finite."""
        return by_rows(_quantize, weight_OI)

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return code times scale, exact in float32."""
        return stored["weight"].float().mul_(stored["weight_scale"].float()[:, None])

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return codes and scales as they are, at an address that torch's kernel may read."""
        codes_OI, scale_O = stored["weight"].contiguous(), stored["weight_scale"]
        rows = _kernel_rows(spec)
        return Int8Weight(self, aligned(codes_OI) if rows else codes_OI, scale_O, rows, spec.dtype)


def _quantize(weight_OI: Tensor) -> dict[str, Tensor]:
    largest_O = torch.maximum(weight_OI.amax(dim=1), -weight_OI.amin(dim=1))
    check_finite(largest_O)
    # At least the smallest normal number, so that a row of zeros has a scale to divide by.
    scale_O = (largest_O / LARGEST).to(torch.bfloat16).clamp_(min=TINY)
    codes_OI = weight_OI.div_(scale_O.float()[:, None]).round_()
    return {"weight": codes_OI.to(torch.int8), "weight_scale": scale_O}


def _kernel_rows(spec: LinearSpec) -> int:
    """Return the most rows of input for which ``torch._weight_int8pack_mm`` is right and fast; 0 where it isn't."""
    if spec.device.type == "cpu":
        # For float32 and float16 the kernel is a plain loop, slower than dequantizing for a single row.
        return (
            INT8_ROWS[product_instructions()]
            if spec.dtype == torch.bfloat16 and spec.in_features % KERNEL_COLUMNS == 0
            else 0
        )
    key = spec.device.type.upper()
    has_kernel = key == "CUDA" and torch._C._dispatch_has_kernel_for_dispatch_key("aten::_weight_int8pack_mm", key)
    return CUDA_KERNEL_ROWS if has_kernel and spec.dtype != torch.float64 else 0


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """Codes and scales, multiplied by torch's kernel where the input has few rows, else block by block."""

    quantizer: Int8Quantizer
    codes_OI: Tensor
    scale_O: Tensor
    kernel_rows: int
    dtype: torch.dtype

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        if 0 < len(input_MI) <= self.kernel_rows and input_MI.dtype == self.dtype:
            return torch._weight_int8pack_mm(aligned(input_MI), self.codes_OI, self.scale_O)
        if input_MI.device.type == "cpu":
            return self.multiply_blocks(input_MI)
        return multiply_dense(input_MI, self.quantizer.dequantize(self.stored()))

    def multiply_blocks(self, input_MI: Tensor) -> Tensor:
        """Multiply with the codes, which every floating type holds exactly, some rows at a time; then scale."""
        values_MI = input_MI.to(product_dtype(input_MI))
        out_MO = values_MI.new_empty(len(values_MI), len(self.codes_OI))
        step = min(block_rows(), len(self.codes_OI))
        reused_OI = BLOCK_OF_WEIGHT.take(step, self.codes_OI.shape[1], values_MI.dtype)
        for begin in range(0, len(self.codes_OI), step):
            rows = slice(begin, begin + step)
            codes_OI = self.codes_OI[rows]
            product_MO = BLOCK_OF_PRODUCT.take(len(values_MI), len(codes_OI), values_MI.dtype)
            torch.mm(values_MI, reused_OI[: len(codes_OI)].copy_(codes_OI).T, out=product_MO)
            torch.mul(product_MO, self.scale_O[rows], out=out_MO[:, rows])
        return out_MO.to(input_MI.dtype)

    def stored(self) -> dict[str, Tensor]:
        """Return codes and scales."""
        return {"weight": self.codes_OI, "weight_scale": self.scale_O}
