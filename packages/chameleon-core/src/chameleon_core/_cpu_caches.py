"""Reads of weights in the order of their addresses, apart because both layers and the choice of ids begin by one."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ELEMENTS = 2**20
"""The largest weight that is read before a product with it: what caches hold."""


def read_first(weight: Tensor) -> None:
    """Bring a float32 weight on a CPU into the caches, address after address; leave others alone.

    From one step to the next it leaves them. BLAS reads several rows at a time, which takes up to three times as long
    where they come from memory.
    """
    if weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() <= MAX_ELEMENTS:
        weight.sum()
