"""What the commands list: rows of a name and a note, and sizes."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .terminal import printable

INDENT = 4


def print_rows(console: Console, rows: Iterable[tuple[str, str, str]], *, width: int) -> None:
    """Print rows of a name, a note and a style: names in a column of ``width``, long notes wrapped beside them."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=INDENT - 2)
    table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    for name, note, style in rows:
        # Text, because a note may hold what looks like rich's markup.
        table.add_row("", Text(printable(name)), Text(printable(note)), style=style)
    if table.row_count:
        console.print(table)


def size(num_bytes: float) -> str:
    """Return a number of bytes for people: ``size(13_500_000_000) == "13.5 GB"``."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if num_bytes < 999.5:
            break
        num_bytes, unit = num_bytes / 1000, larger
    return f"{num_bytes:.0f} {unit}" if num_bytes >= 100 else f"{num_bytes:.3g} {unit}"
