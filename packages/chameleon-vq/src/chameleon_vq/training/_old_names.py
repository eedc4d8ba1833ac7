"""Names of 2026.11 that were replaced, kept for one release; apart from the rest so that they are deleted together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .log import TrainingLog
from .order import BatchOrder


class Order(BatchOrder):
    """Deprecated: use ``chameleon_vq.training.order.BatchOrder``."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        super().__init__(count, batch_size=batch_size, seed=seed)

    def indices(self, step: int) -> list[int]:
        """Deprecated: use ``BatchOrder.batch``."""
        return self.batch(step)


class RunLog(TrainingLog):
    """Deprecated: use ``chameleon_vq.training.log.TrainingLog``."""

    def __init__(self, path: Path | None, *, step: int) -> None:
        super().__init__(path, steps_done=step)
        self.records = self.entries

    def write(self, record: dict[str, Any]) -> None:
        """Deprecated: use ``TrainingLog.append``."""
        self.append(record)
