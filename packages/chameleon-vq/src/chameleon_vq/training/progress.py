"""The progress bar of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import MissingPackageError

Advance = Callable[[float, str], None]
"""Shows how much is done, and a few words."""


@contextmanager
def progress_bar(*, total: float, completed: float, shown: bool = True) -> Iterator[Advance]:
    """Show a bar on standard error, with the elapsed and the remaining time.

    Raises ``MissingPackageError`` without rich.
    """
    if not shown:
        yield lambda done, words: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError as error:
        raise MissingPackageError(
            "training shows its progress with rich. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    columns = (
        TextColumn("training"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        bar.update(task, completed=completed)
        yield lambda done, words: bar.update(task, completed=done, description=words)
