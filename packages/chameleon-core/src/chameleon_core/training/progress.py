"""The progress bar of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .errors import requires_extra

Advance = Callable[[int, str], None]
"""Shows how many steps are done, and a few words."""


@contextlib.contextmanager
def progress_bar(*, total: int, completed: int) -> Iterator[Advance]:
    """Show a bar on standard error, with the remaining time.

    ``total`` and ``completed`` are numbers of steps. Raises ``MissingPackageError`` without rich.
    """
    with requires_extra("the progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=completed)
        yield lambda done, words: progress.update(task, completed=done, description=words)
