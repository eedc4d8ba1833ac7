"""The prompt of a command: texts and pictures in the order in which they were given."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

ORDER = "chameleon_core.cli.prompt.order"

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model: its folder, the name of an installed one, or a Hub id.")
]
ImageTokenizer = Annotated[
    str | None,
    typer.Option(
        help="What reads and draws pictures, where the model has none: a folder (Meta's vqgan.yaml and vqgan.ckpt, "
        "too), a name or a Hub id.",
        rich_help_panel="Model",
    ),
]
Processor = Annotated[
    str | None,
    typer.Option(help="A folder with the tokenizer, where the model has none.", rich_help_panel="Model"),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Of a Hub id: the branch, tag or commit; by default the main branch.", rich_help_panel="Model"),
]
Subfolder = Annotated[
    str | None,
    typer.Option(
        help="The folder in MODEL that has the files, where they aren't in MODEL itself.", rich_help_panel="Model"
    ),
]
RotaryLayout = Annotated[
    str | None,
    typer.Option(
        help="What the rotary embedding turns together in a folder that leaves it open: halves of a head or pairs.",
        rich_help_panel="Model",
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT",
        help="Texts and pictures: the name of an existing picture file is that picture, anything else is text.",
        show_default=False,
    ),
]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text of the prompt; may be repeated.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", exists=True, dir_okay=False, help="A picture of the prompt; may be repeated."),
]


class PromptCommand(TyperCommand):
    """A command that keeps the order in which ``--text`` and ``--image`` were given, which their lists don't have."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments and keep the order of texts and pictures."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [parameter.name for parameter in order if parameter.name in ("text", "image")]
        return super().parse_args(ctx, args)


def model_folder(model: str, revision: str | None = None, subfolder: str | None = None) -> Path:
    """Return the folder that MODEL, ``--revision`` and ``--subfolder`` name. Raises ``ModelNotFoundError``."""
    from .._hub import HubOptions
    from ..checkpoints import resolve_folder

    return resolve_folder(model, HubOptions(revision=revision, subfolder=subfolder or ""))


def read_prompt(
    ctx: typer.Context, words: Sequence[str] | None, texts: Sequence[str] | None, images: Sequence[Path] | None
) -> list[str | Path]:
    """Return the parts of the prompt: a str is text, a path a picture. Raises ``typer.BadParameter``."""
    if words and (texts or images):
        raise typer.BadParameter("give the prompt either as plain arguments or with --text and --image.")
    if words:
        return [_part(word) for word in words]
    waiting: dict[str, Iterator[str | Path]] = {"text": iter(texts or ()), "image": iter(images or ())}
    return [next(waiting[name]) for name in ctx.meta[ORDER]]


def _part(word: str) -> str | Path:
    kind, _ = mimetypes.guess_type(word, strict=False)
    if kind is None or not kind.startswith("image/"):
        return word
    if os.path.isfile(word):
        return Path(word)
    if " " in word:
        return word  # a sentence that ends in a file's name
    raise typer.BadParameter(f"there is no picture file {word!r}. (If it is meant as text: --text {word}.)")
