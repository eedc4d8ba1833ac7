"""The output layer for a few hidden states, which is what decoding asks of it again and again.

Shapes: R rows, E hidden width, V vocabulary, M ids that may be chosen, P pieces of C of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Measured with torch 2.13 on two cores of a Zen 5, 65,536 × 256: one row takes 6.8 ms as the layer is and 1.7 ms
# turned, four rows 16 ms and 6 ms. At a width of 1,024 little of that is left, eight rows are as fast either way, and
# a weight that fits the caches is fast anyhow.
WIDEST = 512
SMALLEST = 2**22
MOST_ROWS = 4
PIECES = 16


@dataclass(frozen=True, slots=True)
class TurnedRows:
    """Rows of a weight in pieces [P, E, C] in which each column lies in one piece; the last one is filled with zeros.

    BLAS reads few long columns at the memory's speed and many short rows at a fraction of it, and threads share the
    pieces, where they wouldn't share the product of one hidden state.
    """

    pieces_PEC: Tensor
    count: int

    @classmethod
    def of(cls, weight_ME: Tensor) -> TurnedRows:
        """A turned copy."""
        padded_ME = F.pad(weight_ME, (0, 0, 0, -len(weight_ME) % PIECES))
        return cls(padded_ME.view(PIECES, -1, weight_ME.shape[1]).transpose(1, 2).contiguous(), len(weight_ME))

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """The product with hidden states, [R, M]."""
        logits_PRC = torch.bmm(hidden_RE.expand(PIECES, -1, -1), self.pieces_PEC)
        return logits_PRC.transpose(0, 1).flatten(1)[:, : self.count]


class TurnedHead:
    """Keeps the turned copy of an output layer from one generation to the next, as long as its weight is the same."""

    def __init__(self) -> None:
        self._turned: TurnedRows | None = None
        self._rows_M: Tensor | None = None
        self._answers_V: Tensor | None = None

    @torch.no_grad()
    def rows(self, layer: nn.Module, rows_M: Tensor) -> TurnedRows | None:
        """These rows of ``layer``'s weight, or None where turning them wouldn't pay.

        Whether the copy is still that of the weight is found by one product with it, because a weight may change in
        ways that leave no trace (``weight.data``).
        """
        if type(layer) is not nn.Linear or not _pays(layer.weight):
            return None
        answers_V = layer.weight @ torch.arange(layer.in_features).cos()
        if not (_same(self._answers_V, answers_V) and _same(self._rows_M, rows_M)):
            self._turned = TurnedRows.of(layer.weight[rows_M])
            self._answers_V, self._rows_M = answers_V, rows_M
        return self._turned


def _same(kept: Tensor | None, now: Tensor) -> bool:
    return kept is not None and torch.equal(kept, now)


def _pays(weight_VE: Tensor) -> bool:
    return (
        weight_VE.device.type == "cpu"
        and weight_VE.dtype == torch.float32
        and weight_VE.shape[1] <= WIDEST
        and weight_VE.numel() >= SMALLEST
    )
