"""The processors against repetition: a penalty for ids that a row has already, and no n-gram twice.

Shapes: R rows, A ids that may be chosen, T length of a row, X any number of ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import checked_number
from .contract import RowView
from .places import forbid, places, with_spare_column
from .row_ids import RowIds


class RepetitionPenalty:
    """Divides the positive logits of ids that a row has already by ``penalty``, and multiplies the negative ones.

    0.001…1,000; above 1, text repeats itself less (CTRL, arXiv 1909.05858, section 4.1).
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = checked_number("repetition-penalty", "penalty", penalty, "0.001…1000")

    def start(self, row: RowView, /) -> RowIds:
        """Return the ids of the prompt."""
        return RowIds(row.prompt)

    def advance(self, state: RowIds, token_id: int, /) -> RowIds:
        """Return the ids with one more."""
        return state.plus(token_id)

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[RowIds], /) -> Tensor:
        """Return the logits with the penalty."""
        if self.penalty == 1:
            return logits_RA
        rows_X = torch.arange(len(states)).repeat_interleave(torch.tensor([len(each) for each in states]))
        ids_X = torch.cat([each.ids_T for each in states])
        rows_X, ids_X = torch.stack((rows_X, ids_X)).to(ids_A.device)
        places_X = places(ids_A, ids_X)
        changed_RA = with_spare_column(logits_RA)
        # An id that a row has several times gets the same logit each time.
        logits_X = changed_RA[rows_X, places_X]
        changed_RA[rows_X, places_X] = torch.where(logits_X > 0, logits_X / self.penalty, logits_X * self.penalty)
        return changed_RA[:, :-1]


class NoRepeatNgrams:
    """Forbids ids that would complete a sequence of ``size`` ids, ≥ 1, that the row has already."""

    def __init__(self, size: int) -> None:
        self.size = int(checked_number("no-repeat-ngrams", "size", size, "≥ 1", kind=int))

    def start(self, row: RowView, /) -> RowIds:
        """Return the ids of the prompt."""
        return RowIds(row.prompt)

    def advance(self, state: RowIds, token_id: int, /) -> RowIds:
        """Return the ids with one more."""
        return state.plus(token_id)

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[RowIds], /) -> Tensor:
        """Return the logits with the last ids of such sequences forbidden."""
        return forbid(logits_RA, ids_A, [self._completions(each.ids_T) for each in states])

    def _completions(self, ids_T: Tensor) -> list[int]:
        """Return the ids that followed the row's last ``size`` − 1 ids earlier in it."""
        if len(ids_T) < self.size:
            return []
        begun = ids_T[len(ids_T) - self.size + 1 :]
        windows = ids_T.unfold(0, self.size, 1)
        return windows[(windows[:, :-1] == begun).all(dim=-1), -1].tolist()
