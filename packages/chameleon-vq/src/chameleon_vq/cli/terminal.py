# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""What the commands print: lines that a terminal shows as they are, in any encoding, to a reader that may go away.

Messages go to stderr, because stdout is for what a command makes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys

from rich.console import Console

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
