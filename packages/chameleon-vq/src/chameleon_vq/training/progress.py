"""A bar that shows how far a run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import MissingPackageError


@contextmanager
def progress_bar(name: str, fraction: Callable[[], float]) -> Iterator[Callable[[str], None]]:
    """Within the block, call what it gives with a few words to show them beside the bar."""
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError as error:
        raise MissingPackageError(
            "training shows its progress with rich. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=1.0, words="")
        bar.update(task, completed=fraction())

        def show(words: str) -> None:
            bar.update(task, completed=fraction(), words=words)

        yield show
