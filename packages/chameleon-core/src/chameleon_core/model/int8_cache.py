"""The cache ``int8``: eight-bit keys and values, which take half the memory of bfloat16 and a quarter of float32.

Shapes: L lanes of a group, T query length, S key length, K key/value heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import ChameleonConfig
from .lane_cache import LaneCache

_LARGEST = 127
_SMALLEST_SCALE = 1e-30


class Int8LaneCache(LaneCache):
    """Stores each head of a position as eight-bit codes and their scale: ``states = codes * scale``.

    The scale is the head's largest number by 127, so that the error of a number is at most half a scale. Keys are
    stored as they are after the rotation.
    """

    def encode(self, states_LKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes int8 [L, K, T, D] and the scales float32 [L, K, T, 1]."""
        floats_LKTD = states_LKTD.float()
        scale_LKT1 = floats_LKTD.abs().amax(dim=-1, keepdim=True) / _LARGEST
        codes_LKTD = (floats_LKTD / scale_LKT1.clamp(min=_SMALLEST_SCALE)).round().to(torch.int8)
        return codes_LKTD, scale_LKT1

    def decode(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Return keys or values [L, K, S, D] in ``dtype``."""
        codes_LKSD, scale_LKS1 = stored
        return codes_LKSD.to(dtype) * scale_LKS1.to(dtype)


def int8_cache(config: ChameleonConfig) -> Int8LaneCache:
    """Return a cache for a model of this configuration."""
    return Int8LaneCache(config.num_hidden_layers)
