"""Names of 2026.11 that were replaced, kept for one release; apart from the rest so that they are deleted together."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .log import TrainingLog
from .order import BatchOrder

P = ParamSpec("P")
R = TypeVar("R")


def renamed_arguments(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take arguments by their old names, the keys, with a ``DeprecationWarning``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in renamed.keys() & kwargs.keys():
                warnings.warn(f"{old} is deprecated; use {renamed[old]}.", DeprecationWarning, stacklevel=2)
                kwargs[renamed[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


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
