"""Vector quantizers: the contract, and the built-in ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._moved import moved_names
from .codebook import Codebook
from .contract import Quantized, VectorQuantizer
from .ema import EMACodebook
from .fsq import FSQ
from .lfq import LFQ
from .over_ranks import OverRanks, add_over_ranks, mean_over_ranks
from .residual import ResidualCodebooks

__all__ = [
    "FSQ",
    "LFQ",
    "Codebook",
    "EMACodebook",
    "OverRanks",
    "Quantized",
    "ResidualCodebooks",
    "VectorQuantizer",
    "add_over_ranks",
    "mean_over_ranks",
]

if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"make_quantizer": "chameleon_vq.registry:make_quantizer"})
