"""``chameleon doctor``: what this machine can run, and what a model would run with."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer
from rich.console import Console

from .generate import usable_device
from .prompt import Revision, Subfolder
from .terminal import echo


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def floating_dtype(ctx: typer.Context, name: str | None) -> str | None:
    """Return the name of a floating dtype of torch. Raises ``typer.BadParameter``."""
    if name is None or ctx.resilient_parsing:  # a shell asks for completions
        return name
    import torch

    dtypes = [each for each, dtype in vars(torch).items() if isinstance(dtype, torch.dtype) and dtype.is_floating_point]
    if name in dtypes:
        return name
    close = difflib.get_close_matches(name, dtypes, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Use float32, bfloat16 or float16, for instance."
    raise typer.BadParameter(f"torch has no floating dtype {name!r}. {hint}")


def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model's folder, the name of an installed one, or a Hub id.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device that the model would run on: cpu, cuda, cuda:1, …", callback=usable_device)
    ] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype of its weights; by default what its config says.", callback=floating_dtype),
    ] = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")] = False,
) -> None:
    """Report what this machine can run, what a model would run with, and why not with something else.

    Of a folder, it names the layout, what is missing and what to do. Exit status 1 says that nothing can be read there.
    """
    import msgspec

    from .report import examine, show

    with Console(stderr=True).status("measuring"):
        report = examine(model, device=device, dtype=dtype, revision=revision, subfolder=subfolder)
    if as_json:
        echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        show(report, Console(highlight=False))
    if report.folder is not None and not report.folder.is_usable:
        raise typer.Exit(1)
