"""The command ``chameleon``: its subcommands, and how it reports errors and warnings.

A subcommand imports what it works with when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from .. import __version__
from . import demo, doctor, generate, plugins, tokens
from .terminal import discard_stdout, escape_unencodable, print_message, printable

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by the convention of shells."""
BROKEN_PIPE = 141
"""The exit code of a program whose reader went away, as ``head`` does, by the same convention."""


class Commands(TyperGroup):
    """Reports an error that a user can fix in one line; any other is a bug of ours and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        escape_unencodable()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            discard_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            _suggest_option(error)
            if ctx.params.get("debug") or not _can_be_fixed(error):
                raise
            print_message(f"error: {error}", style="bold red")
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


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("chameleon_")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning of the toolkit in one line; any other as Python does."""
    if _is_ours(category):
        print_message(f"warning: {message}", style="yellow")
    else:
        sys.stderr.write(printable(warnings.formatwarning(message, category, filename, lineno, line)))


def _print_version(wanted: bool) -> None:
    if wanted:
        Console(highlight=False).print(f"chameleon-core {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Chameleon: one model that reads and writes text and pictures.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Define the options of all commands; ``debug`` is read by ``Commands``."""


generate.register(app)
tokens.register(app)
plugins.register(app)
doctor.register(app)
demo.register(app)
