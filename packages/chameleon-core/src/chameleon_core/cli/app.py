"""The commands, and what becomes of their errors.

A command imports what it works with when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from . import demo, doctor, generate, plugins, tokens

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by the custom of shells."""


class Commands(TyperGroup):
    """Shows an error that a user can mend as one line; any other is a fault of ours and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if ctx.params.get("debug") or not _can_be_mended(error):
                raise
            _say(f"error: {error}", style="bold red")
            raise typer.Exit(1) from error


def _can_be_mended(error: Exception) -> bool:
    """Whether it is one of the toolkit's own errors, or the operating system's about a file."""
    return _is_ours(type(error)) or isinstance(error, OSError)


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("chameleon_")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """One of the toolkit's warnings as one line; any other as Python does."""
    if _is_ours(category):
        _say(f"warning: {message}", style="yellow")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _say(text: str, *, style: str) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(text, style=style)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Chameleon: one model that reads and writes text and pictures.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """Options of all commands; ``debug`` is read by ``Commands``."""


generate.register(app)
tokens.register(app)
plugins.register(app)
doctor.register(app)
demo.register(app)
