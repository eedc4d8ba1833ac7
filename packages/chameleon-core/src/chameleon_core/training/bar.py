"""The progress bar of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .extras import train_extra

Advance = Callable[[int, str], None]
"""Shows how many steps are done, and a few words."""


@contextlib.contextmanager
def progress_bar(*, total: int, completed: int) -> Iterator[Advance]:
    """A bar on the standard error, with the time that remains. Raises ``MissingPackageError`` without rich."""
    with train_extra("the progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=completed)
        yield lambda done, words: progress.update(task, completed=done, description=words)
