"""Three commands: pictures to a file of codes, codes to pictures, and pictures beside their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from .._files import replacing
from ..codes_file import picture_names, read_codes, write_codes
from ..errors import ChameleonVQError, CodesError, ConfigError, ImageError, MissingFileError
from ..pictures import pictures_in
from ..reconstruction import reconstruct
from ..tokenizer import ImageTokenizer

app = typer.Typer(
    name="chameleon-vq",
    help="Chameleon's image tokenizer: pictures to codes and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True)


class DType(StrEnum):
    """What the weights are computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


Pictures = Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.", show_default=False)]
Tokenizer = Annotated[
    str,
    typer.Option(
        "--tokenizer", "-t", help="A model's folder, an image tokenizer's, or a registered name.", show_default=False
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ….")]
Precision = Annotated[DType, typer.Option("--dtype", help="bfloat16 is faster, and changes some codes.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]


def clear_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print this package's errors as a sentence and exit with 1; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except ChameleonVQError as error:
            err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
            raise typer.Exit(1) from error

    return run


@app.command()
@clear_errors
def encode(
    pictures: Pictures,
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of codes to write.")] = Path(
        "codes.safetensors"
    ),
    batch_size: BatchSize = 4,
    device: Device = "cpu",
    dtype: Precision = DType.float32,
) -> None:
    """Turn pictures into codes, all in one file. A picture that can't be read is named and left out."""
    named = _named(pictures)
    model = _load(tokenizer, device, dtype)
    names, codes = [], []
    failures: list[ChameleonVQError] = []
    with _progress("encoding", len(named)) as advance:
        for path, codes_N in model.encode_files(
            _counted(named, advance), batch_size=batch_size, on_error=lambda _, error: failures.append(error)
        ):
            names.append(named[path])
            codes.append(codes_N)
    if len({len(codes_N) for codes_N in codes}) > 1:
        raise CodesError("these pictures have grids of different sizes, a file of codes holds one; turn cropping on.")
    if codes:
        write_codes(output, torch.stack(codes), names=names, tokenizer=model)
        grid = [*model.latent_size, model.codes_per_position][: 2 if model.codes_per_position == 1 else 3]
        shape = "×".join(map(str, grid))
        out.print(f"{_pictures(len(codes))}, {shape} codes each → {escape(str(output))}", highlight=False)
    _report(failures)


@app.command()
@clear_errors
def decode(
    codes: Annotated[Path, typer.Argument(help="A file that `encode` wrote.", show_default=False)],
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the pictures.")] = Path("pictures"),
    batch_size: BatchSize = 4,
    device: Device = "cpu",
    dtype: Precision = DType.float32,
) -> None:
    """Turn a file of codes back into pictures (PNG). Codes of another tokenizer are refused."""
    file = read_codes(codes)
    model = _load(tokenizer, device, dtype)
    file.check_tokenizer(model)
    names = picture_names(file.names)
    with _progress("decoding", len(names)) as advance:
        for start in range(0, len(names), batch_size):
            rows = file.codes_BN[start : start + batch_size]
            images = model.decode(rows, latent_size=file.latent_size, batch_size=batch_size)
            for name, image in zip(names[start:], images, strict=False):
                _save(image, output / name)
                advance()
    out.print(f"{_pictures(len(names))} → {escape(str(output))}", highlight=False)


@app.command(name="reconstruct")
@clear_errors
def reconstruct_command(
    pictures: Pictures,
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the pictures.")] = Path(
        "reconstructions"
    ),
    device: Device = "cpu",
    dtype: Precision = DType.float32,
) -> None:
    """Encode and decode pictures; write each beside its reconstruction, and say how close they are."""
    named = _named(pictures)
    model = _load(tokenizer, device, dtype)
    ratios: dict[str, float] = {}
    failures: list[ChameleonVQError] = []
    with _progress("reconstructing", len(named)) as advance:
        for (path, name), file in zip(named.items(), picture_names(list(named.values())), strict=True):
            try:
                [result] = reconstruct(model, path)
            except (ImageError, MissingFileError) as error:
                failures.append(error)
            else:
                _save(result.side_by_side(), output / file)
                ratios[name] = result.psnr
            advance()
    if ratios:
        _print_ratios(ratios)
        out.print(f"{_pictures(len(ratios))} → {escape(str(output))}", highlight=False)
    _report(failures)


def _load(tokenizer: str, device: str, dtype: DType) -> ImageTokenizer:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device isn't there
        raise ConfigError(f"the device {device!r} can't be used here: {error}") from error
    with err.status("loading the image tokenizer"):
        return ImageTokenizer.from_pretrained(tokenizer, device=device, dtype=getattr(torch, dtype.value))


def _named(sources: Sequence[Path]) -> dict[Path, str]:
    """The picture files meant, each with the name that it keeps: relative to its folder, or its own."""
    named: dict[Path, str] = {}
    for source in sources:
        if source.is_dir():
            named.update((path, path.relative_to(source).as_posix()) for path in pictures_in(source))
        else:
            named[source] = source.name
    names = list(named.values())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CodesError(f"two pictures would have the name {twice[0]!r}; pass the folder that holds both instead.")
    if not named:
        raise ImageError(f"there are no pictures in {', '.join(str(source) for source in sources)}.")
    return named


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on the error stream; the block calls what it is given after each picture."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _counted(paths: Iterable[Path], advance: Callable[[], None]) -> Iterator[Path]:
    for path in paths:
        yield path
        advance()


def _save(image: PIL.Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def _print_ratios(ratios: Mapping[str, float]) -> None:
    mean = sum(ratios.values()) / len(ratios)
    table = Table("picture", Column("PSNR, dB", justify="right"), show_footer=len(ratios) > 1)
    table.columns[0].footer, table.columns[1].footer = "mean", f"{mean:.2f}"
    for name, ratio in ratios.items():
        table.add_row(escape(name), f"{ratio:.2f}")
    out.print(table)


def _report(failures: Sequence[ChameleonVQError]) -> None:
    """Name the pictures that couldn't be read, and exit with 1 where there are any."""
    for error in failures:
        err.print(f"[bold red]left out:[/] {escape(str(error))}", highlight=False)
    if failures:
        raise typer.Exit(1)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
