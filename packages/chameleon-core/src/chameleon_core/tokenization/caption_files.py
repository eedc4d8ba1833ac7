"""Files of captions: JSON lines or CSV, with the name of a picture and its caption in each entry.

A folder in the layout of ``datasets`` (imagefolder) has one as ``metadata.jsonl`` or ``metadata.csv``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .._files import parse_json, read_bytes
from ..errors import FileFormatError

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
CAPTION_FILES = (".jsonl", ".csv")
"""The suffixes of files that are sources of their own."""
NAME_FIELD = "file_name"


def read_captions(path: Path, field: str | None) -> dict[str, str | None]:
    """Return the caption of each picture, by its name relative to the file's folder; None where ``field`` is None.

    Raises ``FileFormatError`` where an entry lacks one of them, where two have one name, and where a name leaves the
    folder; ``MissingFileError`` and ``FileAccessError``.
    """
    captions: dict[str, str | None] = {}
    places: dict[str, str] = {}
    entries = _csv_entries(path, field) if path.suffix.lower() == ".csv" else _json_entries(path)
    for place, entry in entries:
        name, caption = entry.get(NAME_FIELD), None if field is None else entry.get(field)
        if not isinstance(name, str) or not name or (field is not None and not isinstance(caption, str)):
            wanted = "" if field is None else f" or no text {field!r}"
            raise FileFormatError(
                f"{place} of {path} has no text {NAME_FIELD!r}{wanted}. Add them, or name another field as "
                "caption_field (--caption-field)."
            )
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise FileFormatError(
                f"{place} of {path} names {name!r}, which isn't below {path.parent}. Move the file, or the pictures."
            )
        key = parts.as_posix()
        if key in places:
            raise FileFormatError(
                f"{place} of {path} names {key!r}, as {places[key]} does. Leave one of them, or copy the picture."
            )
        places[key], captions[key] = place, caption
    return captions


def _json_entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"line {number} of {path}", an_object=True)


def _csv_entries(path: Path, field: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} isn't UTF-8: {error}. Save it as UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        for column in (NAME_FIELD, *([] if field is None else [field])):
            if columns.count(column) != 1:
                raise FileFormatError(
                    f"{path} has {columns.count(column)} columns {column!r}, expected one; it has "
                    f"{', '.join(columns) or 'none'}. Name another one as caption_field (--caption-field), and the "
                    f"pictures in {NAME_FIELD!r}."
                )
        for entry in reader:
            yield f"line {reader.line_num}", entry
    except csv.Error as error:
        raise FileFormatError(f"{path}, line {reader.line_num}, isn't CSV: {error}.") from error
