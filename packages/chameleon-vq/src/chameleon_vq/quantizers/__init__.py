"""Vector quantizers: the contract, and the built-in ones."""

from __future__ import annotations

from .codebook import Codebook
from .contract import Quantized, VectorQuantizer, make_quantizer
from .ema import EMACodebook
from .fsq import FSQ
from .lfq import LFQ
from .residual import ResidualCodebooks

__all__ = [
    "FSQ",
    "LFQ",
    "Codebook",
    "EMACodebook",
    "Quantized",
    "ResidualCodebooks",
    "VectorQuantizer",
    "make_quantizer",
]
