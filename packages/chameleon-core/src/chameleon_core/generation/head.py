"""The output layer for a few hidden states, which is what decoding asks of it again and again.

Shapes: R rows, E hidden width, V vocabulary, M ids that may be chosen, P pieces of C of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where turning pays on a CPU (torch 2.13): at a width of 256 a row of 65,536 logits takes a fraction of the time, at
# 1,024 nearly as long as before; eight rows are as fast either way, and so is a weight that fits the caches.
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
        # In one piece, since two threads may generate at once: the weight's answers, the rows, their turned copy.
        self._kept: tuple[Tensor, Tensor, TurnedRows] | None = None

    @torch.no_grad()
    def rows(self, layer: nn.Module, rows_M: Tensor) -> TurnedRows | None:
        """These rows of ``layer``'s weight, or None where turning them wouldn't pay.

        Whether the copy is still that of the weight is found by one product with it, because a weight may change in
        ways that leave no trace (``weight.data``).
        """
        if type(layer) is not nn.Linear or not _pays(layer.weight):
            return None
        answers_V = layer.weight @ torch.arange(layer.in_features).cos()
        kept = self._kept
        if kept is None or not (torch.equal(kept[0], answers_V) and torch.equal(kept[1], rows_M)):
            kept = self._kept = (answers_V, rows_M, TurnedRows.of(layer.weight[rows_M]))
        return kept[2]


def _pays(weight_VE: Tensor) -> bool:
    return (
        weight_VE.device.type == "cpu"
        and weight_VE.dtype == torch.float32
        and weight_VE.shape[1] <= WIDEST
        and weight_VE.numel() >= SMALLEST
    )
