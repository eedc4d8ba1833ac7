"""What the commands print: lines, rows of a name and a note, and sizes.

Messages go to stderr, because stdout is for what a command makes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

INDENT = 4

# Control characters without tab and line feed, and what overrides or isolates the direction of text: a terminal
# interprets both, and files and models may hold them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with U+FFFD in place of control characters and of overrides of the direction of text."""
    return _UNPRINTABLE.sub("\ufffd", text)


def echo(text: str) -> None:
    """Write a line to stdout: as it is to a file or a pipe, made printable for a terminal."""
    sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def escape_unencodable() -> None:
    """Let stdout and stderr escape what their encoding doesn't have, where they would raise."""
    for stream in (sys.stdout, sys.stderr):
        # Not every stream that replaces one of them is a TextIOWrapper.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Send what is still buffered for stdout nowhere, since nobody reads it, so that the exit is quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_message(text: str, *, style: str) -> None:
    """Print one line to stderr, made printable; its brackets aren't markup."""
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(printable(text), style=style)


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
