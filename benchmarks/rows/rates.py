"""What the machine can do at best, measured: reading memory, products of matrices, convolutions.

Each rate is measured again whenever a row asks for it, in turn with the row's sides, since the speed of a shared
machine drifts. Buffers are made once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

from .row import Limit, Scale, Side

REPEATS = 3
DTYPES = (torch.float32, torch.bfloat16)


def read_bandwidth(scale: Scale) -> float:
    """Return the bytes that are read from memory in a second, by the faster of a sum and a product with a vector."""
    calls, size = _readers(scale)
    return max(size / _seconds(call) for call in calls)


def gemm_rate(dtype: torch.dtype, scale: Scale) -> float:
    """Return the floating-point operations in a second of a product of large matrices."""
    call, flops = _gemm(dtype, scale)
    return flops / _seconds(call)


def convolution_rate(dtype: torch.dtype, scale: Scale) -> float:
    """Return the floating-point operations in a second of 3×3 convolutions, of the shape for which they are most."""
    return max(flops / _seconds(call) for call, flops in _convolutions(dtype, scale))


def measured_rates(scale: Scale) -> dict[str, float]:
    """Return all rates by their names: bytes or floating-point operations in a second."""
    rates = {"read": read_bandwidth(scale)}
    for dtype in DTYPES:
        rates[f"gemm {_name(dtype)}"] = gemm_rate(dtype, scale)
        rates[f"convolution {_name(dtype)}"] = convolution_rate(dtype, scale)
    return rates


def reading(size: float, scale: Scale) -> Limit:
    """Return the limit of work that reads ``size`` bytes, in milliseconds."""
    return Limit(f"reading {_short(size)}B", lambda: 1000 * size / read_bandwidth(scale))


def multiplying(flops: float, dtype: torch.dtype, scale: Scale) -> Limit:
    """Return the limit of work that is products of matrices, in milliseconds."""
    return Limit(f"{_short(flops)}FLOP of {_name(dtype)} products", lambda: 1000 * flops / gemm_rate(dtype, scale))


def convolving(flops: float, dtype: torch.dtype, scale: Scale) -> Limit:
    """Return the limit of work that is convolutions, in milliseconds."""
    name = f"{_short(flops)}FLOP of {_name(dtype)} convolutions"
    return Limit(name, lambda: 1000 * flops / convolution_rate(dtype, scale))


def alone(name: str, side: Side) -> Limit:
    """Return the limit of work of which a part, measured alone, can't be left out."""
    return Limit(f"{name} alone", side)


@lru_cache(maxsize=1)
def _readers(scale: Scale) -> tuple[Sequence[Callable[[], object]], int]:
    # Many times what caches hold.
    size = scale.pick(2**29, 2**28, 2**22)
    values = torch.ones(size // 4)
    matrix, vector = values.view(-1, 8192), torch.ones(8192)
    return [values.sum, lambda: torch.mv(matrix, vector)], size


@lru_cache(maxsize=2)
def _gemm(dtype: torch.dtype, scale: Scale) -> tuple[Callable[[], object], float]:
    # As much as takes a tenth of a second or less.
    wide = (1024, 4096, 4096) if dtype == torch.bfloat16 else (512, 4096, 2048)
    rows, inputs, outputs = scale.pick(wide, wide, (64, 256, 256))
    values, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    return lambda: F.linear(values, weight), 2.0 * rows * inputs * outputs


@lru_cache(maxsize=2)
def _convolutions(dtype: torch.dtype, scale: Scale) -> Sequence[tuple[Callable[[], object], float]]:
    calls = []
    shapes = ((128, 128), (256, 64), (512, 32))
    for channels, side in scale.pick(shapes, shapes, ((32, 32),)):
        picture, kernel = torch.ones(1, channels, side, side, dtype=dtype), torch.ones(channels, channels, 3, 3)
        picture = picture.contiguous(memory_format=torch.channels_last)
        kernel = kernel.to(dtype, memory_format=torch.channels_last)
        call = lambda picture=picture, kernel=kernel: F.conv2d(picture, kernel, padding=1)  # noqa: E731
        calls.append((call, 2.0 * 9 * channels * channels * side * side))
    return calls


@torch.inference_mode()
def _seconds(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(number: float) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "G"), (1e6, "M")) if number >= unit), (1e3, "k"))
    return f"{number / unit:,.3g} {name}" if number / unit < 1000 else f"{number / unit:,.0f} {name}"
