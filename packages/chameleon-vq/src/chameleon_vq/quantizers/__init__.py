"""Vector quantizers: the contract, and the built-in ones."""

from __future__ import annotations

from .codebook import Codebook
from .contract import Quantized, VectorQuantizer, make_quantizer

__all__ = ["Codebook", "Quantized", "VectorQuantizer", "make_quantizer"]
