"""Up to how many rows of input torch's CPU kernels for packed weights are faster than a product block by block.

The kernels' time grows with the rows faster than that of a matrix product, which first waits for each block of the
weight to be dequantized. Where the two meet depends on the instructions that the product has: measured with torch 2.13,
one thread, and 4,096 inputs, by ``benchmarks/weight_quantizers.py --rows 8 16 24 32 48 64 96 128``. The numbers are
constants and aren't measured when a model is loaded, so that a prompt gives the same ids in every process.
"""

from __future__ import annotations

from functools import cache

import torch

INT8_ROWS = {"amx": 16, "avx512_bf16": 96, "float32": 32}
"""The most rows for which the int8 kernel runs, by the instructions of the dense product."""
INT4_ROWS = {"amx": 80, "avx512_bf16": 128, "float32": 48}
"""The most rows for which the int4 kernel runs, by the instructions of the dense product."""


@cache
def product_instructions() -> str:
    """Return what this CPU multiplies matrices of bfloat16 with: a key of ``INT8_ROWS`` and ``INT4_ROWS``.

    "amx" are tiles, "avx512_bf16" vectors of bfloat16; without either, products run in float32.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    return "amx" if torch.cpu._is_amx_tile_supported() else "avx512_bf16"
