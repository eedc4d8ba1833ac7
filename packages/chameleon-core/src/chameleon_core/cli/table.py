"""Rows of a name and a note, for the commands that list what there is."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

INDENT = 4


def print_rows(console: Console, rows: Iterable[tuple[str, str, str]], *, width: int) -> None:
    """Print names, ``width`` wide, each beside its note, in a style; a note that is too long goes on below itself."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=INDENT - 2)
    table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    for name, note, style in rows:
        # Text, because a note may hold what looks like rich's markup.
        table.add_row("", Text(name), Text(note), style=style)
    if table.row_count:
        console.print(table)
