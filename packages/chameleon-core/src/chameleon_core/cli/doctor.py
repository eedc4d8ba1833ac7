"""``chameleon doctor``: what this machine can run, and what a model would run with."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from .generate import usable_device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def floating_dtype(name: str | None) -> str | None:
    """The name of a floating dtype of torch. Raises ``typer.BadParameter``."""
    if name is None:
        return None
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise typer.BadParameter(f"{name!r} is no floating dtype of torch, such as float32 or bfloat16.")
    return name


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model's folder, the name of an installed one, or a Hub id.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where the model would run: cpu, cuda, cuda:1, …", callback=usable_device)
    ] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="What its weights would become; what its config says by default.", callback=floating_dtype),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON in place of text.")] = False,
) -> None:
    """Say what this machine can run, what a model would run with, and why not with something else."""
    import msgspec

    from .report import examine, show

    with Console(stderr=True).status("measuring"):
        report = examine(model, device=device, dtype=dtype)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        show(report, Console(highlight=False))
