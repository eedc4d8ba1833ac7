"""``chameleon tokenize`` and ``chameleon detokenize``: documents to ids and back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .prompt import (
    Images,
    ImageTokenizer,
    Model,
    Processor,
    PromptCommand,
    Revision,
    Subfolder,
    Texts,
    Words,
    model_folder,
    read_prompt,
)

EXPECTED = "Expected ids, such as [0, 8197, 4, 8196], which `chameleon tokenize` writes."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(cls=PromptCommand, no_args_is_help=True)(tokenize)
    app.command(no_args_is_help=True)(detokenize)


def tokenize(
    ctx: typer.Context,
    model: Model,
    prompt: Words = None,
    text: Texts = None,
    image: Images = None,
    document: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, allow_dash=True, help="A document.json instead of a prompt; - is stdin."
        ),
    ] = None,
    template: Annotated[str, typer.Option(help="Format of the prompt: completion, chat or a plugin's.")] = "completion",
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Let the document open the picture files that it names.")
    ] = False,
    image_tokenizer: ImageTokenizer = None,
    processor: Processor = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
) -> None:
    """Write the ids of a document to stdout, as a JSON array."""
    from ..optional_packages import text_package
    from ..pipeline.attach import other_processor

    parts: Any = read_prompt(ctx, prompt, text, image)
    if document is not None and parts:
        raise typer.BadParameter("give either a prompt or --document.")
    folder = model_folder(model, revision, subfolder)
    package = text_package()
    if document is not None:
        parts = package.document_from_json(_content(document), allow_files=allow_files)
    unread = [segment for segment in package.as_document(parts) if _is_unread(segment, package)]
    with Console(stderr=True).status(f"loading {model}"):
        reader = _image_tokenizer(folder, image_tokenizer) if unread else None
        loaded = other_processor(folder, processor, reader, image_tokenizer, _picture_format(folder))
    typer.echo(json.dumps(loaded.encode(parts, template=template)))


def detokenize(
    model: Model,
    ids: Annotated[Path, typer.Argument(metavar="IDS", help="A file with a JSON array of ids; - is stdin.")] = Path(
        "-"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="Folder for document.json, document.md and the pictures."),
    ] = None,
    image_tokenizer: ImageTokenizer = None,
    processor: Processor = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
) -> None:
    """Write the document of ids to stdout, or with --output to a folder, with its pictures drawn."""
    from ..optional_packages import text_package
    from ..pipeline import save_document
    from ..pipeline.attach import other_processor
    from .output import Writer

    row = _ids(ids)
    folder = model_folder(model, revision, subfolder)
    sizes = _picture_format(folder)
    loaded = other_processor(folder, processor, None, image_tokenizer, sizes)
    document = loaded.decode_document(row)
    if output is not None and any(isinstance(segment, text_package().Image) for segment in document):
        with Console(stderr=True).status("drawing the pictures"):
            reader = _image_tokenizer(folder, image_tokenizer)
            drawer = other_processor(folder, processor, reader, image_tokenizer, sizes)
            document = drawer.draw(document)
    writer = Writer(output)
    writer.write(document)
    writer.end()
    if output is not None:
        save_document(document, output)


def _image_tokenizer(folder: Path, other: str | None) -> Any:
    """Load the image tokenizer of a model's folder, or another one for it."""
    from ..folder_parts import load_image_tokenizer
    from ..pipeline.attach import other_image_tokenizer

    if other is None:
        return load_image_tokenizer(folder, device="cpu")
    return other_image_tokenizer(other, folder, device="cpu")


def _picture_format(folder: Path) -> Any:
    """Return how the pictures of a model are written where they have several sizes, else None."""
    from .._commits import stored
    from .._files import read_json
    from ..config import CONFIG_FILE, ChameleonConfig

    path = stored(folder, CONFIG_FILE)
    if not os.path.isfile(path) or read_json(path).get("picture_grammar", "chameleon") == "chameleon":
        return None
    from ..layout import TokenLayout

    return TokenLayout.from_config(ChameleonConfig.from_pretrained(folder)).sized_pictures


def _is_unread(segment: Any, package: Any) -> bool:
    return isinstance(segment, package.Image) and segment.codes is None and segment.image is not None


def _ids(path: Path) -> list[int]:
    """Return the ids in a file. Raises ``FileFormatError``."""
    from .._files import parse_json
    from ..errors import FileFormatError

    source = "stdin" if str(path) == "-" else str(path)
    try:
        data = parse_json(_content(path), source)
    except FileFormatError as error:
        raise FileFormatError(f"{error} {EXPECTED}") from error
    if not isinstance(data, list) or not all(type(each) is int for each in data):
        raise FileFormatError(f"{source} is not a JSON array of integers. {EXPECTED}")
    return data


def _content(path: Path) -> bytes:
    """Return the bytes of a file, or of stdin for "-". A pipe or a device in place of a file is refused."""
    from .._files import read_bytes

    # The bytes of stdin: the locale's encoding may not be UTF-8.
    return sys.stdin.buffer.read() if str(path) == "-" else read_bytes(path)
