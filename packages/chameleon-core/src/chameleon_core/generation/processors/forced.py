"""The processors for single places of a row: ids that may not be the first, and ids that must be the first or last.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...errors import GenerationError
from .checks import checked_ids
from .contract import FORBIDDEN, RowView
from .places import forbid, places, with_spare_column


class ForbiddenFirst:
    """Forbids ``ids`` as the first new id of a row."""

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = checked_ids("forbidden-first", "ids", ids)

    def start(self, row: RowView, /) -> bool:
        """Return that the first id is still to come."""
        return True

    def advance(self, state: bool, token_id: int, /) -> bool:
        """Return that it has come."""
        return False

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[bool], /) -> Tensor:
        """Return the logits with the ids forbidden in rows without new ids."""
        return forbid(logits_RA, ids_A, [self.ids if is_first else () for is_first in states])


class ForcedIds:
    """Leaves only ``first`` as the second id of a row with a prompt of one, and only ``last`` as the last one possible.

    Each are ids; none leaves the place alone.
    """

    def __init__(self, first: Iterable[int] = (), last: Iterable[int] = ()) -> None:
        self.first = checked_ids("forced-ids", "first", first)
        self.last = checked_ids("forced-ids", "last", last)

    def start(self, row: RowView, /) -> tuple[int, int]:
        """Return the number of ids, and how many may still come."""
        if self.last and row.limit is None:
            raise GenerationError("the logits processor 'forced-ids' needs the row's limit; the view has limit=None.")
        return len(row.prompt), row.limit or 0

    def advance(self, state: tuple[int, int], token_id: int, /) -> tuple[int, int]:
        """Return the numbers after one more id."""
        return state[0] + 1, state[1] - 1

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, int]], /) -> Tensor:
        """Return the logits, in forced rows 0 for what must come and forbidden for the rest."""
        forced = [self._forced(*state) for state in states]
        if not any(forced):
            return logits_RA
        changed_RA = with_spare_column(logits_RA)
        for row, ids in enumerate(forced):
            if ids:
                changed_RA[row] = FORBIDDEN
                changed_RA[row, places(ids_A, torch.tensor(ids, device=ids_A.device))] = 0
        return changed_RA[:, :-1]

    def _forced(self, length: int, left: int) -> tuple[int, ...]:
        if self.last and left == 1:
            return self.last
        return self.first if length == 1 else ()
