"""The output layer for one or two hidden states, which is what decoding asks of it again and again.

Shapes: R rows, E hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Measured with torch 2.13 on a Zen 5: 65,536 × 256 by one row takes 6.5 ms as it is and 2.6 ms turned. At a width of
# 1,024 little of that is left, three rows are as fast either way, and a weight that fits the caches is fast anyhow.
WIDEST = 512
SMALLEST = 2**22
MOST_ROWS = 2


class TurnedWeight:
    """A copy of a narrow weight [V, E] in which each column lies in one piece, made again when the weight changes.

    BLAS reads a few long columns at the memory's speed, and many short rows at less than half of it.
    """

    def __init__(self) -> None:
        self._turned_EV: Tensor | None = None
        self._answers_V: Tensor | None = None

    @torch.no_grad()
    def of(self, layer: nn.Module) -> Tensor | None:
        """``layer``'s weight as [E, V], or None where it wouldn't pay.

        Whether the copy is still the weight is found by one product with it, because a weight may change in ways that
        leave no trace (``weight.data``).
        """
        if type(layer) is not nn.Linear or not _pays(layer.weight):
            return None
        answers_V = layer.weight @ torch.arange(layer.in_features).cos()
        if self._answers_V is None or not torch.equal(answers_V, self._answers_V):
            self._turned_EV, self._answers_V = layer.weight.T.contiguous(), answers_V
        return self._turned_EV


def _pays(weight_VE: Tensor) -> bool:
    return (
        weight_VE.device.type == "cpu"
        and weight_VE.dtype == torch.float32
        and weight_VE.shape[1] <= WIDEST
        and weight_VE.numel() >= SMALLEST
    )
