"""``chameleon tokenize-dataset``: folders, tar shards and parquet files of captioned pictures to token shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .prompt import ImageTokenizer, Model, Processor, Revision, Subfolder, model_folder
from .terminal import echo, print_message

_MOST_LISTED = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(tokenize_dataset)


def tokenize_dataset(
    model: Model,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCES",
            help="Folders of pictures, files of captions (.jsonl, .csv), WebDataset tar shards or parquet files.",
            exists=True,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the dataset.", file_okay=False)],
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes, of one thread each; by default one for each processor, 0 for none."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="<address>", help="Share the work on a Ray cluster: its address, auto, or local for a new one here."
        ),
    ] = None,
    order: Annotated[
        str, typer.Option(help="What a document is: mixed, caption-first, picture-first or picture-only.")
    ] = "mixed",
    template: Annotated[
        str, typer.Option(help="The format: completion, or one of turns such as chat, of which the answer is learned.")
    ] = "completion",
    picture_field: Annotated[
        str, typer.Option(help="The column of parquet files and saved datasets with the pictures.")
    ] = "image",
    caption_field: Annotated[
        str | None,
        typer.Option(
            help="Where captions are: a column or a field of metadata files (by default text), or a suffix (txt)."
        ),
    ] = None,
    unit_size: Annotated[int, typer.Option(min=1, help="Pictures of a folder that are one token shard.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are encoded together.")] = 16,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="The most ids of a document; by default the model's context length.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device to encode pictures on, such as cpu or cuda.")] = "cpu",
    image_tokenizer: ImageTokenizer = None,
    processor: Processor = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
) -> None:
    """Tokenize pictures with captions into a dataset to train on. Started again, it continues where it was stopped.

    Pictures that can't be read are listed in refused.jsonl, with the reason.
    """
    from ..tokenization import TokenizationOptions
    from ..tokenization import tokenize_dataset as tokenize

    options = TokenizationOptions(
        order=order,  # type: ignore[arg-type]  # checked there
        template=template,
        picture_field=picture_field,
        caption_field=caption_field,
        unit_size=unit_size,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("units of work", total=None)
            done = tokenize(
                model_folder(model, revision, subfolder),
                sources,
                output,
                workers=workers,
                ray=ray,
                image_tokenizer=image_tokenizer,
                processor=processor,
                options=options,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        print_message("stopped: the same command continues.", style="bold red")
        raise
    echo(f"{output}: {done.documents:,} documents, {done.ids:,} ids; samples refused: {done.refused:,}")
    if done.refused:
        print_message(f"refused.jsonl in {output} says which samples were refused, and why.", style="yellow")
    print_skipped(done.skipped)


def print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Print which files in folders were no sources, and why."""
    for path, reason in skipped[:_MOST_LISTED]:
        print_message(f"not a source: {path} ({reason})", style="yellow")
    if len(skipped) > _MOST_LISTED:
        print_message(f"and {len(skipped) - _MOST_LISTED:,} more", style="yellow")
