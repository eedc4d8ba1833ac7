"""``chameleon demo``: the whole path on real photographs."""

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
    """Take real photographs and text through the whole path, and leave a contact sheet."""
    import torch

    from ..siblings import text_package, vq_package

    text_package()
    vq_package()
    from ..demo import run_demo  # imports both

    torch.set_num_threads(1)  # layers this small take longer on several
    console = Console(stderr=True)
    console.print("No trained model comes with the toolkit yet: this one is made up and writes noise.", style="yellow")
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
