"""Parquet files of pictures and captions: a column of bytes, or of objects with ``bytes`` as ``datasets`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FileFormatError
from ..training.errors import requires_extra
from .options import TokenizationOptions

_ROWS = 16
"""Rows that are in memory."""


def row_groups(path: Path, options: TokenizationOptions) -> list[int]:
    """Return the number of rows of each row group; of a file that can't be read a 0, and reading it says why.

    Raises ``ConfigError`` where the file lacks a column, ``MissingPackageError`` without pyarrow.
    """
    with requires_extra(f"reading {path}", extra="parquet"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    except (ArrowException, OSError):
        return [0]
    for column in columns(options):
        if column not in names:
            raise ConfigError(
                f"{path} has no column {column!r}; it has {', '.join(names)}. Name others as picture_field and "
                "caption_field (--picture-field, --caption-field)."
            )
    return groups


def columns(options: TokenizationOptions) -> list[str]:
    """Return the names of the columns that are read: of the pictures, and of the captions where there are any."""
    captions = [] if options.order == "picture-only" else [options.caption_field or "text"]
    return [options.picture_field, *captions]


def rows(path: Path, row_group: int, options: TokenizationOptions) -> Iterator[tuple[Any, Any]]:
    """Yield the picture and the caption of each row of a row group: bytes and a text, or None where it has none.

    A text that isn't UTF-8 comes as its bytes.
    Raises ``FileFormatError`` where the file is damaged.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    names = columns(options)
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[row_group], columns=names):
                for number in range(batch.num_rows):
                    picture = cell(batch.column(names[0])[number])
                    yield picture, cell(batch.column(names[1])[number]) if len(names) > 1 else None
    except (ArrowException, OSError) as error:
        raise FileFormatError(str(error)) from error


def cell(scalar: Any) -> Any:
    """Return what a cell holds; of an object the ``bytes``, since ``datasets`` has the file's name beside them."""
    from pyarrow.types import is_struct

    if is_struct(scalar.type):
        fields = [field.name for field in scalar.type]
        return scalar["bytes"].as_py() if scalar.is_valid and "bytes" in fields else None
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()
