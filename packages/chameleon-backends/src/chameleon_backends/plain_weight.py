"""A weight that runs without a kernel, and what quantizers share: working by rows, and what kernels require.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UnsupportedWeightError

BLOCK_ROWS = 512
"""How many rows of a weight each thread dequantizes at a time for a product with many rows of input.

A block of 512 × 4,096 in bfloat16 is 4 MB: it stays in a cache between its conversion and the product, and is long
enough for the product to run at its full rate.
"""
_MOST_BLOCK_ROWS = 4096

ROWS_AT_A_TIME = 512
"""How many rows of a weight are quantized at a time, so that float32 copies stay small beside the weight."""

# The strictest alignment that the kernels' loads need; torch's own allocations have it.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """A ``PreparedWeight`` without a kernel: dequantize, then multiply. Right for every dtype and device."""

    dequantize: Callable[[Mapping[str, Tensor]], Tensor]
    """Returns the weight that the tensors stand for, float32 [O, I]."""
    tensors: dict[str, Tensor]
    splits: bool = False
    """Whether rows of the tensors stand for the same rows of the weight, which is then dequantized block by block."""

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        if not self.splits or input_MI.device.type != "cpu":
            return multiply_dense(input_MI, self.dequantize(self.tensors))
        blocks = zip(*(torch.split(tensor, block_rows()) for tensor in self.tensors.values()), strict=True)
        products = [
            multiply_dense(input_MI, self.dequantize(dict(zip(self.tensors, block, strict=True)))) for block in blocks
        ]
        return torch.cat(products, dim=1)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from."""
        return self.tensors


def block_rows() -> int:
    """Return how many rows of a weight are dequantized at a time; oneDNN gives a product with fewer to one thread."""
    return min(BLOCK_ROWS * torch.get_num_threads(), _MOST_BLOCK_ROWS)


class Scratch(threading.local):
    """Memory that a thread keeps for one block: the system takes longer to give it than it is used."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def take(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor [rows, columns] of any values, in the memory of the one that was taken last."""
        if self._kept is None or self._kept.dtype != dtype or self._kept.numel() < rows * columns:
            with torch.inference_mode(False):  # what is made in it can't be written outside of it
                self._kept = torch.empty(rows * columns, dtype=dtype)
        return self._kept[: rows * columns].view(rows, columns)


BLOCK_OF_WEIGHT, BLOCK_OF_PRODUCT = Scratch(), Scratch()


def multiply_dense(input_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """Multiply an input with the transpose of a float32 weight: ``out_MO`` in the input's dtype."""
    dtype = product_dtype(input_MI)
    return F.linear(input_MI.to(dtype), weight_OI.to(dtype)).to(input_MI.dtype)


def product_dtype(input_MI: Tensor) -> torch.dtype:
    """Return the dtype in which an input is multiplied: its own, or float32 where that is faster."""
    on_slow_cpu = input_MI.device.type == "cpu" and not _multiplies_fast(input_MI.dtype)
    return torch.float32 if on_slow_cpu else input_MI.dtype


def _multiplies_fast(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies matrices of this dtype faster than float32, or must, for its precision.

    A CPU without instructions for bfloat16 takes about six times as long with it as with float32.
    """
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype != torch.float16


def by_rows(quantize: Callable[[Tensor], Mapping[str, Tensor]], weight_OI: Tensor) -> dict[str, Tensor]:
    """Quantize ``ROWS_AT_A_TIME`` rows at a time, in float32, and concatenate the results along their first axis.

    ``quantize`` gets a copy of the rows, which it may overwrite and which the next rows overwrite.
    """
    # One piece of memory for all rows: to get new pages from the system takes longer than to quantize them.
    reused_OI = torch.empty(
        min(ROWS_AT_A_TIME, len(weight_OI)), *weight_OI.shape[1:], dtype=torch.float32, device=weight_OI.device
    )
    pieces = [
        quantize(reused_OI[: len(rows_OI)].copy_(rows_OI))
        for rows_OI in torch.split(weight_OI.detach(), ROWS_AT_A_TIME)
    ]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def check_finite(extremes: Tensor) -> None:
    """Raise ``UnsupportedWeightError`` where the extremes of a weight's values aren't finite."""
    if not extremes.isfinite().all():
        raise UnsupportedWeightError("the weight has infinite or NaN values; fix it, or skip the layer")


def aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, contiguous and at an address that kernels' aligned loads may read; a copy where needed.

    A view, or a tensor of a mapped file, may begin anywhere. The kernels don't check, and crash the process.
    """
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
