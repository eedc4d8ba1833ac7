"""``chameleon eval``: measure a model, and write a page of tables and plots."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from .prompt import ImageTokenizer, Model, Revision, Subfolder, model_folder
from .rows import print_rows
from .terminal import printable

DATA = "Data"
WHAT = "What is measured"
REMARK = 16
"""The least width of a name before a remark."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="eval", no_args_is_help=True)(evaluate)


def evaluate(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for evaluation.html and evaluation.json.")
    ] = Path("eval-output"),
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures, for the image tokenizer.", rich_help_panel=DATA)
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file, for perplexity.", rich_help_panel=DATA)] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="Pictures to name: a folder with cat.txt beside cat.png or a metadata.jsonl, a tar shard or a parquet "
            "file. Each line of a caption is a reference.",
            rich_help_panel=DATA,
        ),
    ] = None,
    drawings: Annotated[
        Path | None, typer.Option(help="Pictures to draw by their captions, in the same forms.", rich_help_panel=DATA)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most pictures of each source.", rich_help_panel=DATA)
    ] = None,
    max_ids: Annotated[int | None, typer.Option(min=1, help="The most ids of the text.", rich_help_panel=DATA)] = None,
    question: Annotated[
        str, typer.Option(help="What is asked about a picture.", rich_help_panel=WHAT)
    ] = "what is this?",
    template: Annotated[
        str, typer.Option(help="Format of prompts: chat, completion or a plugin's.", rich_help_panel=WHAT)
    ] = "chat",
    lpips: Annotated[
        str | None,
        typer.Option(
            help="A function of yours that returns the perceptual distances of two batches of pixels: module:function.",
            metavar="<module:name>",
            rich_help_panel=WHAT,
        ),
    ] = None,
    fid_features: Annotated[
        str | None,
        typer.Option(
            help="A function of yours that returns features of a batch of pixels, for rFID: module:function.",
            metavar="<module:name>",
            rich_help_panel=WHAT,
        ),
    ] = None,
    variants: Annotated[
        bool, typer.Option(help="Compare attention backends and weight quantizers.", rich_help_panel=WHAT)
    ] = True,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Compare this backend or quantizer only; may be repeated.", rich_help_panel=WHAT),
    ] = None,
    positions: Annotated[
        int, typer.Option(min=1, help="About how many positions to compare them at.", rich_help_panel=WHAT)
    ] = 512,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Of the embedded model: without drawings, in half a minute.", rich_help_panel=WHAT
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of drawings.", rich_help_panel=WHAT)] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Model")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, …", rich_help_panel="Model")] = "cpu",
    image_tokenizer: ImageTokenizer = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.", rich_help_panel="Model")] = None,
) -> None:
    """Measure a model: its image tokenizer, text, captions, drawings, every attention backend and weight quantizer.

    Of the embedded model, `chameleon eval emoji`, it measures the model card's figures again.
    """
    from ..evaluation import EvaluationOptions, write_report
    from ..evaluation import evaluate as evaluate_model
    from ..evaluation.tables import tables
    from ..threads import default_threads, threads_set_to
    from .choices import read_model

    options = EvaluationOptions(
        pictures=_named(pictures),
        text=_named(text),
        captions=_named(captions),
        drawings=_named(drawings),
        question=question,
        template=template,
        limit=limit,
        max_ids=max_ids,
        seed=seed,
        variants=variants,
        only=tuple(only) if only else None,
        positions=positions,
        quick=quick,
    )
    folder = model_folder(model, revision, subfolder)
    functions = {
        "distance": named_function("--lpips", lpips),
        "features": named_function("--fid-features", fid_features),
    }
    weights = read_model(model, folder, device=device, dtype=None if dtype == "auto" else dtype).num_bytes
    number = threads or default_threads(weights, device)
    with threads_set_to(number), _bar() as advance:
        found = evaluate_model(
            folder, options, dtype=dtype, device=device, image_tokenizer=image_tokenizer, progress=advance, **functions
        )
        found = replace(found, model=model)
        paths = write_report(found, output)
    console = Console()
    for table in tables(found):
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for place, head in enumerate(table.heads):
            is_text = place < table.texts or not head
            shown.add_column(head, justify="left" if is_text else "right", no_wrap=not is_text)
        for row in table.rows:
            shown.add_row(*(Text(printable(value)) for value in row))
        console.print(shown)
        print_rows(console, [(name, text, "dim") for name, text in table.remarks], width=REMARK)
        console.print()
    for path in paths:
        typer.echo(path)


def _named(path: Path | None) -> str | None:
    return None if path is None else str(path)


def named_function(option: str, name: str | None) -> Callable[..., Any] | None:
    """Return the function that an option names. Raises ``ConfigError`` where there is none."""
    from ..errors import ConfigError

    if name is None:
        return None
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file in this folder is a module, as for `python -m`
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{option} names {name!r}, which can't be imported: {error}. Pass MODULE:NAME of a function, such as "
            "my_metrics:lpips."
        ) from error
    if not callable(found):
        raise ConfigError(f"{option} names {name!r}, a {type(found).__name__}, expected a function.")
    return found


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar on a terminal's stderr; yield what says what is done, and how much of it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
