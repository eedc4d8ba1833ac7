"""``chameleon demo``: the embedded model at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Output = Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for what it makes.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(output: Output = Path("demo-output")) -> None:
    """Let the embedded model caption, draw and continue a document, and write a contact sheet."""
    from ..optional_packages import emoji_package, text_package, vq_package

    for package in (text_package, vq_package, emoji_package):
        package()
    from ..demo import run_demo  # imports the first two

    console = Console(stderr=True)
    with console.status("") as status:
        report = run_demo(output, say=lambda step: status.update(step))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", justify="right")
    table.add_column()
    for value, meaning in report.figures():
        table.add_row(value, meaning)
    console.print(table)
    for path, meaning in report.files():
        typer.echo(f"{path}  {meaning}")
