"""The commands: encode pictures to a file of codes, decode it, and compare pictures with their reconstructions.

A command imports what it works with when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from .. import __version__
from .._files import replacing
from ..errors import (
    ChameleonVQError,
    CodesError,
    FileAccessError,
    FileFormatError,
    ImageError,
    MissingFileError,
)
from . import train
from .commands import Commands
from .sources import Pictures, named_pictures
from .terminal import printable

if TYPE_CHECKING:
    import PIL.Image

    from ..tokenizer import ImageTokenizer

app = typer.Typer(
    name="chameleon-vq",
    cls=Commands,
    help="Chameleon's image tokenizer: encode pictures to codes, and decode codes to pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


class DType(StrEnum):
    """The dtype of the weights and of the computation."""

    float32 = "float32"
    bfloat16 = "bfloat16"


Tokenizer = Annotated[
    str,
    typer.Option(
        "--tokenizer",
        "-t",
        help="Folder of a model or of an image tokenizer, or a registered name such as emoji.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Device to compute on, such as cpu or cuda.")]
Precision = Annotated[
    DType,
    typer.Option(
        "--dtype", help="Dtype to compute in. bfloat16 changes some codes, and is faster if the processor supports it."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Pictures to process together; by default as many as have a million pixels, but at most 16."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"chameleon-vq {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Define the options of the command itself; its help is that of the app."""


@app.command()
def encode(
    pictures: Pictures,
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="File of codes to write.")] = Path("codes.safetensors"),
    batch_size: BatchSize = None,
    device: Device = "cpu",
    dtype: Precision = DType.float32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Encode in so many processes of one thread, and continue where a command was stopped."
        ),
    ] = None,
) -> None:
    """Encode pictures to one file of codes. A picture that can't be read is reported and left out."""
    import torch

    from ..codes_file import write_codes
    from ..file_access import check_writable

    failures: list[ChameleonVQError] = []
    named = _writable(named_pictures(pictures), failures)
    check_writable(output)
    model = _load(tokenizer, device, dtype)
    names, codes = [], []
    stopped = False
    if workers is not None:
        _encode_in_processes(named, model, failures, output, workers, (tokenizer, device, dtype.value, batch_size))
        return
    with _progress("encoding", len(named)) as advance:

        def leave_out(_: Path, error: ChameleonVQError) -> None:
            failures.append(error)
            advance()

        try:
            for path, codes_N in model.encode_files(named, batch_size=batch_size, on_error=leave_out):
                advance()
                if len(codes_N) == model.tokens_per_image:
                    names.append(named[path])
                    codes.append(codes_N)
                else:
                    failures.append(_other_size(path, len(codes_N), model))
        except KeyboardInterrupt:
            stopped = True  # what was encoded is kept
    if codes:
        write_codes(output, torch.stack(codes), names=names, tokenizer=model)
        _print_encoded(len(codes), model, output)
    _report(failures)
    if stopped:
        err.print("[bold red]stopped:[/] the other pictures were not encoded.")
        raise typer.Exit(130)


@app.command()
def decode(
    codes: Annotated[
        Path, typer.Argument(metavar="CODES", help="File of codes that `encode` wrote.", show_default=False)
    ],
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the pictures to.")] = Path("pictures"),
    batch_size: BatchSize = None,
    device: Device = "cpu",
    dtype: Precision = DType.float32,
) -> None:
    """Decode a file of codes to pictures (PNG). Codes of another tokenizer are refused."""
    from ..codes_file import picture_names, read_codes
    from ..pictures import batch_of

    file = read_codes(codes)
    model = _load(tokenizer, device, dtype)
    file.check_tokenizer(model)
    names = picture_names(file.names)
    failures: list[ChameleonVQError] = []
    with _progress("decoding", len(names)) as advance:
        together = batch_of(batch_size, math.prod(file.latent_size) * model.model.config.stride**2)
        for start in range(0, len(names), together):
            rows = file.codes_BN[start : start + together]
            images = model.decode(rows, latent_size=file.latent_size, batch_size=together)
            for name, image in zip(names[start:], images, strict=False):
                try:
                    _save(image, output / name)
                except FileAccessError as error:
                    if not _is_of_one_name(error):
                        raise
                    failures.append(error)
                advance()
    out.print(f"{_pictures(len(names) - len(failures))} → {escape(printable(str(output)))}", highlight=False)
    _report(failures)


@app.command(name="reconstruct")
def reconstruct_command(
    pictures: Pictures,
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the pictures to.")] = Path(
        "reconstructions"
    ),
    device: Device = "cpu",
    dtype: Precision = DType.float32,
) -> None:
    """Encode and decode pictures, write each beside its reconstruction, and print how close they are (PSNR)."""
    from ..codes_file import picture_names
    from ..reconstruction import reconstruct

    failures: list[ChameleonVQError] = []
    named = _writable(named_pictures(pictures), failures)
    model = _load(tokenizer, device, dtype)
    ratios: dict[str, float] = {}
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
        out.print(f"{_pictures(len(ratios))} → {escape(printable(str(output)))}", highlight=False)
    _report(failures)


@app.command()
def compare(
    pictures: Pictures,
    tokenizer: Tokenizer,
    device: Device = "cpu",
    dtype: Annotated[
        DType, typer.Option(help="Dtype whose codes are compared with those of float32.")
    ] = DType.bfloat16,
) -> None:
    """Count the codes of pictures that another dtype changes, and print how near to a tie they were (0 to 0.5)."""
    from ..agreement import compare_codes

    named = named_pictures(pictures)
    exact, other = (_load(tokenizer, device, each) for each in (DType.float32, dtype))
    failures: list[ChameleonVQError] = []
    table = Table("picture", Column("codes", justify="right"), Column("differ", justify="right"), "largest margin")
    differing = positions = 0
    with _progress("comparing", len(named)) as advance:
        for path, name in named.items():
            try:
                found = compare_codes(exact, other, path)
            except (ImageError, MissingFileError) as error:
                failures.append(error)
            else:
                differing, positions = differing + found.differing, positions + found.positions
                margin = f"{found.largest_margin:.4f}"
                table.add_row(escape(printable(name)), str(found.positions), str(found.differing), margin)
            advance()
    if positions:
        out.print(table)
        share = differing / positions
        out.print(f"{dtype.value} changes {differing:,} of {positions:,} codes ({share:.2%}).", highlight=False)
    _report(failures)


def _encode_in_processes(
    named: Mapping[Path, str],
    model: ImageTokenizer,
    failures: list[ChameleonVQError],
    output: Path,
    workers: int,
    options: tuple[str, str, str, int | None],
) -> None:
    from ..encoding_job import EncodingOptions, encode_in_processes

    done = 0
    with _progress("encoding", len(named)) as advance:

        def add(pictures: int) -> None:
            nonlocal done
            done += pictures
            for _ in range(pictures):
                advance()

        try:
            left_out = encode_in_processes(
                named, model, output, EncodingOptions(*options), workers=workers, on_done=add
            )
        except KeyboardInterrupt:
            err.print("[bold red]stopped:[/] the same command continues.")
            raise
    failures += map(ImageError, left_out)
    if done > len(left_out):
        _print_encoded(done - len(left_out), model, output)
    _report(failures)


def _print_encoded(count: int, model: ImageTokenizer, output: Path) -> None:
    grid = [*model.latent_size, model.codes_per_position][: 2 if model.codes_per_position == 1 else 3]
    shape = "×".join(map(str, grid))
    out.print(f"{_pictures(count)}, {shape} codes each → {escape(printable(str(output)))}", highlight=False)


def _load(tokenizer: str, device: str, dtype: DType) -> ImageTokenizer:
    with err.status("loading the image tokenizer"):
        from ..tokenizer import ImageTokenizer

        return ImageTokenizer.from_pretrained(tokenizer, device=device, dtype=dtype.value)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on the error stream; call what it yields after each picture."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _save(image: PIL.Image.Image, path: Path) -> None:
    from ..file_access import writing

    with writing(path), replacing(path) as temporary:
        image.save(temporary, format="PNG")


def _writable(named: Mapping[Path, str], failures: list[ChameleonVQError]) -> dict[Path, str]:
    """Return the pictures whose names a file of codes can have, and add an error to ``failures`` for each other one."""
    from ..codes_file import check_name

    kept = {}
    for path, name in named.items():
        try:
            check_name(name)
            kept[path] = name
        except FileFormatError as error:
            failures.append(error)
    return kept


def _other_size(path: Path, found: int, model: ImageTokenizer) -> ChameleonVQError:
    return CodesError(
        f"{path} has {found} codes, expected {model.tokens_per_image}: pictures of grids of different sizes don't fit "
        "into one file of codes. Turn do_center_crop on."
    )


def _is_of_one_name(error: BaseException) -> bool:
    """Return whether a picture can't be written because of its name, so that others can."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def _print_ratios(ratios: Mapping[str, float]) -> None:
    mean = sum(ratios.values()) / len(ratios)
    table = Table("picture", Column("PSNR, dB", justify="right"), show_footer=len(ratios) > 1)
    table.columns[0].footer, table.columns[1].footer = "mean", f"{mean:.2f}"
    for name, ratio in ratios.items():
        table.add_row(escape(printable(name)), f"{ratio:.2f}")
    out.print(table)


def _report(failures: Sequence[ChameleonVQError]) -> None:
    """Print which pictures couldn't be read, and exit with 1 if there are any."""
    for error in failures:
        err.print(f"[bold red]left out:[/] {escape(printable(str(error)))}", highlight=False)
    if failures:
        raise typer.Exit(1)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


train.register(app)
