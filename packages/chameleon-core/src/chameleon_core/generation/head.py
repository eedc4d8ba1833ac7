"""The output layer for one or two hidden states, which is what decoding asks of it again and again.

Shapes: E hidden width, V vocabulary, M ids that may be chosen.
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
    """A copy of some rows of a narrow weight [V, E], in which each column lies in one piece.

    BLAS reads a few long columns at the memory's speed, and many short rows at less than half of it. The copy is made
    again when the weight has changed, or other rows are asked for.
    """

    def __init__(self) -> None:
        self._turned_EM: Tensor | None = None
        self._rows_M: Tensor | None = None
        self._answers_V: Tensor | None = None

    @torch.no_grad()
    def of(self, layer: nn.Module, rows_M: Tensor) -> Tensor | None:
        """These rows of ``layer``'s weight as [E, M], or None where it wouldn't pay.

        Whether the copy is still that of the weight is found by one product with it, because a weight may change in
        ways that leave no trace (``weight.data``).
        """
        if type(layer) is not nn.Linear or not _pays(layer.weight):
            return None
        answers_V = layer.weight @ torch.arange(layer.in_features).cos()
        if not (_same(self._answers_V, answers_V) and _same(self._rows_M, rows_M)):
            self._turned_EM = layer.weight[rows_M].T.contiguous()
            self._answers_V, self._rows_M = answers_V, rows_M
        return self._turned_EM


def _same(kept: Tensor | None, now: Tensor) -> bool:
    return kept is not None and torch.equal(kept, now)


def _pays(weight_VE: Tensor) -> bool:
    return (
        weight_VE.device.type == "cpu"
        and weight_VE.dtype == torch.float32
        and weight_VE.shape[1] <= WIDEST
        and weight_VE.numel() >= SMALLEST
    )
