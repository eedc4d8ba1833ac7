"""Documents saved in folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._boundary import translates_errors
from .._commits import committing, stored
from .._files import read_bytes, writing
from ..errors import ConfigError
from ..optional_packages import text_package

if TYPE_CHECKING:
    from chameleon_text import Document, Segment

DOCUMENT = "document.json"
"""The file that programs read."""


@translates_errors
def save_document(document: Sequence[Segment], folder: str | os.PathLike[str]) -> None:
    """Save a document as a folder that people and programs can read.

    ``document.md`` shows it, with ``picture-1.png`` and so on beside it, and with the segments of codecs as JSON;
    ``document.json`` is what chameleon-text's ``document_from_json`` reads, with the codes of the pictures. All files
    are replaced together, once all are written.
    """
    text = text_package()
    recorded: list[Segment] = []
    markdown = ""
    number = 0
    with writing(folder), committing(folder) as save:
        for segment in document:
            if isinstance(segment, text.Image):
                number += 1
                name = picture_name(number)
                if segment.image is None:
                    recorded.append(segment)
                    markdown += f"\n\n[picture {number}, of {len(segment.codes or ())} codes]\n\n"
                    continue
                if isinstance(segment.image, (str, os.PathLike)):
                    path = Path(segment.image).absolute()  # the folder refers to the file, which isn't opened
                    recorded.append(text.Image(str(path), segment.codes, segment.grid))
                    markdown += f"\n\n![picture {number}](<{path}>)\n\n"
                    continue
                if hasattr(segment.image, "save"):
                    segment.image.save(save / name, format="PNG")
                else:
                    (save / name).write_bytes(_png_of_array(segment, number))
                recorded.append(text.Image(name, segment.codes, segment.grid))
                markdown += f"\n\n![picture {number}]({name})\n\n"
            else:
                recorded.append(segment)
                if isinstance(segment, text.Text):
                    markdown += segment.text
                elif not isinstance(segment, text.Special):
                    markdown += f"\n\n```json\n{segment_as_json(segment)}\n```\n\n"
        _write(save / DOCUMENT, text.document_to_json(recorded))
        _write(save / "document.md", markdown.strip("\n"))


@translates_errors
def load_document(folder: str | os.PathLike[str]) -> Document:
    """Return the document that ``save_document`` wrote; its pictures have their codes and the names of their files.

    Raises ``MissingFileError`` where there is none, and chameleon-text's ``DocumentError`` where it can't be read.
    """
    path = stored(folder, DOCUMENT)
    return text_package().document_from_json(read_bytes(path))


def _png_of_array(segment: Any, number: int) -> bytes:
    from chameleon_text.png import png_of

    try:
        return png_of(segment.image)
    except (TypeError, ValueError) as error:  # an array that is no picture, for instance
        raise ConfigError(f"picture {number} of the document, {segment!r}, can't be written as PNG.") from error


def segment_as_json(segment: Segment) -> str:
    """Return the JSON object of a codec's segment, as it is in ``document.json``."""
    as_list: str = text_package().document_to_json([segment])
    return as_list.removeprefix("[").removesuffix("]")


def picture_name(number: int) -> str:
    """Return the file name of a document's picture; ``number`` is ≥ 1."""
    return f"picture-{number}.png"


def _write(path: Path, text: str) -> None:
    # Bytes, because text mode would convert the document's own line ends into the system's.
    path.write_bytes(f"{text}\n".encode())
