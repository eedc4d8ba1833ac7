"""``chameleon demo``: the embedded model at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Output = Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the results.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads on the CPU; by default 1, unless OMP_NUM_THREADS is set.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(output: Output = Path("demo-output"), threads: Threads = None) -> None:
    """Let the embedded model draw, name pictures and continue a document, and write a contact sheet.

    It takes about half a minute on one core.
    """
    from ..optional_packages import emoji_package, text_package, vq_package

    for package in (text_package, vq_package, emoji_package):
        package()
    from ..demo import QUICKSTART, STEPS, run_demo  # imports the first two
    from ..threads import default_threads, threads_set_to

    console = Console(stderr=True)
    # The model is small, as the rule counts.
    number = threads or default_threads(0)
    with threads_set_to(number), _ProgressLine(console) as line:
        report = run_demo(output, progress=line.show)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", justify="right")
    table.add_column()
    for value, meaning in report.figures():
        table.add_row(value, meaning)
    console.print(table)
    files = report.files()
    width = max(len(str(path)) for path, _ in files)
    for path, meaning in files:
        typer.echo(f"{path!s:{width}}  {meaning}")
    typer.echo("\nLook at the first of these. Then try:\n")
    for step in STEPS:
        typer.echo(f"# {step.meaning}\n{step.command}\n")
    typer.echo(f"More: {QUICKSTART} in the toolkit's folder.")


class _ProgressLine:
    """A progress bar on a terminal; elsewhere a line for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._columns = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._columns.add_task("", total=None)
        self._what = ""

    def __enter__(self) -> _ProgressLine:
        self._columns.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._columns.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Show what is being done, and how much of all is done."""
        if what != self._what and not self._console.is_terminal:
            self._console.print(what, highlight=False)
        self._what = what
        self._columns.update(self._task, description=what, completed=done, total=total)
