# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The group of a program's commands: how it reports errors, warnings, an interruption and a reader that went away."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from .terminal import discard_stdout, escape_unencodable, print_message, printable

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by the convention of shells."""
BROKEN_PIPE = 141
"""The exit code of a program whose reader went away, as ``head`` does, by the same convention."""


class Commands(TyperGroup):
    """Reports an error that a user can fix in one line; any other is a bug of ours and keeps its traceback."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the arguments; ``--version`` prints here."""
        escape_unencodable()
        with _reported():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _reported(debug=bool(ctx.params.get("debug"))), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextlib.contextmanager
def _reported(*, debug: bool = False) -> Iterator[None]:
    """Report what is raised in the block, and exit with the code for it."""
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        _suggest_option(error)
        if debug or not _can_be_fixed(error):
            raise
        print_message(f"error: {_in_words(error)}", style="bold red")
        _flush()
        raise typer.Exit(1) from error


def _suggest_option(error: Exception) -> None:
    """Add the closest option to an error about an unknown one; typer's report leaves it out."""
    # By its attributes, because typer doesn't export the class of the error.
    if close := getattr(error, "possibilities", None):
        error.message = f"{error.message}. Did you mean {close[0]!r}?"  # type: ignore[attr-defined]
        error.possibilities = None  # type: ignore[attr-defined]


def _can_be_fixed(error: Exception) -> bool:
    """Return whether it is one of the toolkit's own errors, or the operating system's about a file."""
    return _is_ours(type(error)) or isinstance(error, OSError)


def _in_words(error: Exception) -> str:
    """Return an error in a line; the operating system's own with what to do."""
    if _is_ours(type(error)) or not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}. Check the path, its permissions and that there is space, and try again."


def _flush() -> None:
    """Write what is buffered for stdout; where that fails, as on a full disk, drop it, so that the exit is quiet."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("chameleon_")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning of the toolkit in one line, once; any other as Python does."""
    if _is_ours(category):
        print_message(f"warning: {message}", style="yellow")
    else:
        sys.stderr.write(printable(warnings.formatwarning(message, category, filename, lineno, line)))
