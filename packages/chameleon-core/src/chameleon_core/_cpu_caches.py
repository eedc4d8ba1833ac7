"""What makes products of a few rows on a CPU fast, apart because both the layers and the choice of ids need it.

Shapes: M rows of inputs, O outputs of a product, F width of the inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ELEMENTS = 2**20
"""The largest weight that is read before a product with it: what caches hold."""
BLOCK_ELEMENTS = 2**17
"""The largest part of a weight that is read at once: what a core's own cache holds beside other things."""


def filling_of(rows: int) -> int:
    """Return how many rows more a product should have: BLAS multiplies four in less time than three, 8 than 7."""
    return int(rows % 4 == 3)


def reading_pays(weight: Tensor) -> bool:
    """Return whether products of several rows with a weight begin by reading it: float32 on a CPU, of a small model."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() <= MAX_ELEMENTS


def read_first(weight: Tensor) -> None:
    """Bring a weight, or keys and values, into the caches, address after address, where that pays.

    From one step to the next they leave them. BLAS reads several rows at a time, which takes up to three times as long
    where they come from memory.
    """
    if reading_pays(weight):
        weight.sum()


def blocks_of(weight_OF: Tensor) -> tuple[Tensor, ...]:
    """Return a weight in parts of some outputs each, which ``product_of_blocks`` takes."""
    return torch.split(weight_OF, max(1, BLOCK_ELEMENTS // weight_OF.shape[1]))


def product_of_blocks(inputs_MF: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
    """Return the product with a weight [M, O], one part after the other, each while a core's own cache holds it."""
    rows = len(inputs_MF)
    if filling_of(rows):
        inputs_MF = F.pad(inputs_MF, (0, 0, 0, filling_of(rows)))
    products = []
    for block_OF in blocks:
        block_OF.sum()  # as in read_first
        products.append(F.linear(inputs_MF, block_OF))
    return (products[0] if len(products) == 1 else torch.cat(products, dim=1))[:rows]
