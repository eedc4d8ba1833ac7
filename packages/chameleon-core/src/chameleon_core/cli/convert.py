"""``chameleon convert`` and ``chameleon verify``: a model's folder in another format, and whether both are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .prompt import Revision, RotaryLayout, Subfolder, model_folder
from .terminal import echo

DIFFERENT = 1
"""The exit code of ``verify`` where the folders differ, as of other commands that compare."""
_MOST_LISTED = 20

Pickles = Annotated[
    bool, typer.Option("--pickles", help="Read the tensors of pytorch_model.bin, where there are no safetensors.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(no_args_is_help=True)(convert)
    app.command(no_args_is_help=True)(verify)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="The model: a folder in any installed format, a GGUF file, a name or a Hub id."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write.", file_okay=False)],
    checkpoint_format: Annotated[
        str, typer.Option("--format", help="The format to write: hf, meta, gguf or a plugin's.")
    ] = "hf",
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Files of weights in Meta's layout, a model-parallel rank each; as the model has."),
    ] = None,
    average_norms: Annotated[
        bool, typer.Option("--average-norms", help="Take the mean of norms that differ between ranks.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of GGUF: the type of its matrices (float32, float16, bfloat16), or what they are dequantized to."
        ),
    ] = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Make the layers float that GPTQ, AWQ or compressed-tensors quantized.")
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="The largest file of the format hf, such as 5GB.")] = "5GB",
    pickles: Pickles = False,
    rotary_layout: RotaryLayout = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    extra_weights: Annotated[
        str, typer.Option(help="Weights that the model has no place for: refuse or keep, in formats without a name.")
    ] = "refuse",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model, and files of its names, in the folder to write.")
    ] = False,
) -> None:
    """Write a model's folder in another format: weights, tokenizers and the decoder of pictures, bit for bit."""
    from ..checkpoints.conversion import convert_checkpoint

    of_gguf = {} if dtype is None else {"dtype": dtype}
    writes_gguf = checkpoint_format == "gguf"
    source_options = {
        **({"average_norms": True} if average_norms else {}),
        **({"pickles": True} if pickles else {}),
        **({} if writes_gguf else of_gguf),
    }
    target_options = {**({} if ranks is None else {"ranks": ranks}), **(of_gguf if writes_gguf else {})}
    with _bar("converting", DownloadColumn(binary_units=False)) as advance:
        done = convert_checkpoint(
            model_folder(source, revision, subfolder),
            target,
            checkpoint_format=checkpoint_format,
            source_options=source_options,
            target_options=target_options,
            dequantize=dequantize,
            max_shard_size=max_shard_size,
            rotary_layout=rotary_layout,
            extra_weights=extra_weights,
            overwrite=overwrite,
            progress=advance,
        )
    decoder = "with" if done.has_image_decoder else "without"
    echo(
        f"{target}: {done.num_tensors:,} tensors, {done.num_bytes / 1e9:.2f} GB, from {done.source_format} to "
        f"{done.target_format}, {decoder} a decoder of pictures"
    )
    if done.beside is not None:
        echo(done.beside)


def verify(
    first: Annotated[
        str, typer.Argument(metavar="FIRST", help="A model: a folder in any installed format, a name or a Hub id.")
    ],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another one.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="The largest difference of a value or a logit that counts as equal.")
    ] = 0.0,
    num_ids: Annotated[int, typer.Option("--ids", min=1, help="How many ids to compute logits of.")] = 32,
    seed: Annotated[int, typer.Option(help="What draws the ids.")] = 0,
    rotary_layout: RotaryLayout = None,
    pickles: Pickles = False,
) -> None:
    """Compare two models: every tensor bit for bit, then logits of drawn ids. Exit status 1 says that they differ."""
    from ..checkpoints import resolve_folder
    from ..verification import verify_checkpoints

    folders = resolve_folder(first), resolve_folder(second)
    with _bar("comparing", MofNCompleteColumn()) as advance:
        found = verify_checkpoints(
            *folders, num_ids=num_ids, seed=seed, rotary_layout=rotary_layout, pickles=pickles, progress=advance
        )
    for each in found.differences[:_MOST_LISTED]:
        echo(f"{each.name}: {each.reason}")
    if len(found.differences) > _MOST_LISTED:
        echo(f"and {len(found.differences) - _MOST_LISTED:,} more")
    equal = found.num_tensors - len(found.differences)
    echo(f"tensors: {equal:,} of {found.num_tensors:,} are equal bit for bit")
    if found.logits_difference is None:
        echo(f"logits: not computed: {found.not_computed}")
    else:
        echo(f"logits: the largest difference is {found.logits_difference:.3g}")
    same = found.equals(tolerance)
    echo("equal" if same else "different")
    if not same:
        raise typer.Exit(DIFFERENT)


@contextmanager
def _bar(description: str, column: Any) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal's stderr; yield what moves it to a number out of another."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), column, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
