"""The pictures that a command is given: files and folders, each picture with its name in what the command writes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CodesError, ImageError
from .terminal import print_message

Pictures = Annotated[
    list[Path], typer.Argument(metavar="PICTURES", help="Picture files or folders of pictures.", show_default=False)
]


def named_pictures(sources: Sequence[Path]) -> dict[Path, str]:
    """Return the picture files, each with its name: relative to its folder, or its own.

    Raises ``CodesError`` where two have one name, ``ImageError`` where there are none, ``MissingFileError``.
    """
    from ..picture_files import SUFFIXES, pictures_in

    named: dict[Path, str] = {}
    for source in sources:
        if os.path.isdir(source):
            found = pictures_in(source, on_skip=_note)
            named.update((path, path.relative_to(source).as_posix()) for path in found)
        else:
            named[source] = source.name
    count = Counter(named.values())
    twice = sorted(name for name in count if count[name] > 1)
    if twice:
        raise CodesError(f"two pictures would have the name {twice[0]!r}; pass the folder that has both instead.")
    if not named:
        raise ImageError(
            f"there are no pictures in {', '.join(str(source) for source in sources)}; expected files named "
            f"{', '.join(f'*{suffix}' for suffix in sorted(SUFFIXES))}."
        )
    return named


def _note(path: Path, reason: str) -> None:
    print_message(f"not a picture: {path} ({reason})", style="yellow")
