"""What quantizers share: a weight that runs without a kernel, and the care that kernels need.

Shapes: O output features, I input features, N rows of input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UnsupportedWeightError
from ..weights import WeightQuantizer

KERNEL_ROWS = 128
"""Up to how many rows of input torch's CPU kernels for packed weights are used; above, the weight is dequantized once.

The kernels' time grows with the rows faster than a matrix product's does, which waits for the dequantized weight. With
torch 2.13, one core with AVX2 and 5,504 × 4,096, the two are equal somewhere between 64 and 256 rows.
``benchmarks/weight_quantizers.py --rows 64 128 256`` says where on your machine.
"""

ROWS_AT_A_TIME = 512
"""How many rows of a weight are quantized at a time, so that float32 copies stay small beside the weight."""

# What the kernels' aligned loads need at most; torch's own allocations have it.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """The contract without a kernel: dequantize, then multiply. Right for every dtype and device."""

    quantizer: WeightQuantizer
    tensors: dict[str, Tensor]

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``out_NO`` in the input's dtype."""
        return multiply_dense(input_NI, self.quantizer.dequantize(self.tensors))

    def stored(self) -> dict[str, Tensor]:
        """The tensors as they came."""
        return self.tensors


def multiply_dense(input_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """``out_NO`` in the input's dtype, by a float32 weight."""
    if input_NI.device.type == "cpu" and not _multiplies_fast(input_NI.dtype):
        return F.linear(input_NI.float(), weight_OI).to(input_NI.dtype)
    return F.linear(input_NI, weight_OI.to(input_NI.dtype))


def _multiplies_fast(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of this dtype faster than float32, or must use it for its precision.

    One without instructions for bfloat16 takes about six times as long with it as with float32.
    """
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype != torch.float16


def by_rows(quantize: Callable[[Tensor], Mapping[str, Tensor]], weight_OI: Tensor) -> dict[str, Tensor]:
    """Quantize some rows at a time, and put the results together again along their first axis."""
    pieces = [quantize(rows_OI.float()) for rows_OI in torch.split(weight_OI.detach(), ROWS_AT_A_TIME)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def check_finite(extremes: Tensor) -> None:
    """Raise ``UnsupportedWeightError`` where the extremes of a weight's values aren't finite."""
    if not extremes.isfinite().all():
        raise UnsupportedWeightError("the weight has values that are infinite or not a number; mend it, or skip it")


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it that lies where a kernel's aligned loads may read; contiguous.

    A view, or a tensor of a mapped file, may begin anywhere. The kernels don't look, and end the process.
    """
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
