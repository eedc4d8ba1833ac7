"""The processors that forbid ids: always, after certain others, or before a row has some length.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .checks import checked_ids, checked_number, checked_sequences
from .contract import FORBIDDEN, RowView
from .places import forbid, places, with_spare_column


class ForbiddenIds:
    """Forbids ``ids`` everywhere, and the last id of each of ``sequences`` after the others of it."""

    def __init__(self, ids: Iterable[int] = (), sequences: Iterable[Sequence[int]] = ()) -> None:
        self.ids = checked_ids("forbidden-ids", "ids", ids)
        self.sequences = checked_sequences("forbidden-ids", "sequences", sequences)
        self._longest = max(map(len, self.sequences), default=1) - 1

    def start(self, row: RowView, /) -> tuple[int, ...]:
        """Return the ids that a sequence may have begun with."""
        return self._last(row.prompt)

    def advance(self, state: tuple[int, ...], token_id: int, /) -> tuple[int, ...]:
        """Return the last ids after one more."""
        return self._last((*state, token_id)) if self._longest else state

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, ...]], /) -> Tensor:
        """Return the logits with what is forbidden."""
        logits_RA = forbid(logits_RA, ids_A, [self._completions(each) for each in states])
        if not self.ids:
            return logits_RA
        columns = places(ids_A, torch.tensor(self.ids, device=ids_A.device))
        return with_spare_column(logits_RA).index_fill_(1, columns, FORBIDDEN)[:, :-1]

    def _last(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids[max(len(ids) - self._longest, 0) :]

    def _completions(self, ids: tuple[int, ...]) -> list[int]:
        """Return the last ids of the sequences whose others the row ends in."""
        return [each[-1] for each in self.sequences if ids[len(ids) - len(each) + 1 :] == each[:-1]]


class MinNewTokens:
    """Forbids the ids that end a row while it has fewer than ``count`` ids, ≥ 0, after its prompt."""

    def __init__(self, count: int) -> None:
        self.count = int(checked_number("min-new-tokens", "count", count, "≥ 0", kind=int))

    def start(self, row: RowView, /) -> tuple[int, tuple[int, ...]]:
        """Return the number of ids to come and those that end the row."""
        return self.count, tuple(row.stop_ids)

    def advance(self, state: tuple[int, tuple[int, ...]], token_id: int, /) -> tuple[int, tuple[int, ...]]:
        """Return the state with one id less to come."""
        left, stop_ids = state
        return (left - 1, stop_ids) if left > 1 else (0, ())

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[int, tuple[int, ...]]], /) -> Tensor:
        """Return the logits with the ends forbidden in rows that are too short."""
        return forbid(logits_RA, ids_A, [stop_ids if left else () for left, stop_ids in states])
