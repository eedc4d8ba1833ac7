"""The command ``chameleon``: its subcommands, and how it reports errors and warnings.

A subcommand imports what it works with when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from . import convert, dataset, demo, doctor, evaluate, generate, plan, plugins, serve, tokens, train
from .commands import Commands


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
dataset.register(app)
train.register(app)
plugins.register(app)
doctor.register(app)
plan.register(app)
convert.register(app)
serve.register(app)
evaluate.register(app)
demo.register(app)
