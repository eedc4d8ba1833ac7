"""The rows that wait for room, in the order in which they start. Any thread may add one."""

from __future__ import annotations

import bisect
import threading
from typing import Generic

from .decoder import LaneT
from .running import RunningRow


class WaitingRows(Generic[LaneT]):
    """Rows by priority, and within one priority by arrival."""

    def __init__(self) -> None:
        self._rows: list[RunningRow[LaneT]] = []
        self._lock = threading.Lock()

    def add(self, row: RunningRow[LaneT], limit: int | None) -> bool:
        """Add a new row, unless ``limit`` rows wait already; return whether it was added."""
        with self._lock:
            if limit is not None and len(self._rows) >= limit:
                return False
            bisect.insort(self._rows, row, key=lambda each: each.order)
            return True

    def put_back(self, row: RunningRow[LaneT]) -> None:
        """Add a row that was running, whatever the limit."""
        self.add(row, None)

    def first(self) -> RunningRow[LaneT] | None:
        """Return the row that starts next; None where none waits."""
        with self._lock:
            return self._rows[0] if self._rows else None

    def remove(self, row: RunningRow[LaneT]) -> None:
        """Remove a row that starts now."""
        with self._lock:
            self._rows.remove(row)

    def rows(self) -> list[RunningRow[LaneT]]:
        """Return the rows that wait now."""
        with self._lock:
            return list(self._rows)

    def remove_ended(self) -> list[RunningRow[LaneT]]:
        """Remove the rows that have ended while they waited, and return them."""
        with self._lock:
            ended = [row for row in self._rows if row.row.finish_reason is not None]
            self._rows = [row for row in self._rows if row.row.finish_reason is None]
            return ended
