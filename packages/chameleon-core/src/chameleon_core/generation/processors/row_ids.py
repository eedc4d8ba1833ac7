"""The ids of a row as an immutable value that grows without copies.

Shapes: T length of the row.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

_SPARE = 64
"""The least number of ids that there is room for when memory is taken."""


class RowIds:
    """The ids of a row so far. It never changes for who holds it, and one more id takes no copy of the others.

    The ids lie in memory that is filled from its start, and each object sees as many of them as it has. Only where ids
    were taken back and others follow are those before them copied.
    """

    __slots__ = ("_length", "_memory")

    def __init__(self, ids: Sequence[int]) -> None:
        self._length = len(ids)
        self._memory = _Memory(array("q", ids), len(ids))

    def __len__(self) -> int:
        return self._length

    @property
    def ids_T(self) -> Tensor:
        """The ids, int64 [T] on the CPU, which may not be changed."""
        if not self._length:
            return torch.empty(0, dtype=torch.int64)
        return torch.frombuffer(self._memory.ids, dtype=torch.int64, count=self._length)

    def plus(self, token_id: int) -> RowIds:
        """Return these ids and one more."""
        longer = RowIds.__new__(RowIds)
        longer._length = self._length + 1
        longer._memory = self._memory.appended(self._length, token_id)
        return longer


class _Memory:
    """Ids that several ``RowIds`` share, and how many of the places are taken."""

    __slots__ = ("ids", "lock", "taken")

    def __init__(self, ids: array[int], length: int) -> None:
        self.ids = ids[:length]
        self.ids.frombytes(bytes(8 * (length + _SPARE)))
        self.taken = length
        self.lock = threading.Lock()

    def appended(self, length: int, token_id: int) -> _Memory:
        """Return memory with the first ``length`` ids and one more: this one where the next place is free."""
        with self.lock:
            if length == self.taken < len(self.ids):
                self.ids[length] = token_id
                self.taken += 1
                return self
        copy = _Memory(self.ids, length)
        copy.ids[length] = token_id
        copy.taken += 1
        return copy
