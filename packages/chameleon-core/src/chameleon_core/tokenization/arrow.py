# mypy: disable-error-code="import-not-found, import-untyped"
"""Folders that ``save_to_disk`` of the package ``datasets`` wrote, of one split or of several, by that package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._files import read_json
from ..errors import ConfigError, FileFormatError
from ..training.errors import requires_extra
from .options import TokenizationOptions
from .parquet import cell, columns

_ROWS = 16
"""Rows that are in memory."""
_SPLITS_FILE = "dataset_dict.json"
_DATASET_FILES = ("state.json", "dataset_info.json")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether a folder is one that ``save_to_disk`` wrote."""
    return os.path.isfile(folder / _SPLITS_FILE) or all(os.path.isfile(folder / name) for name in _DATASET_FILES)


def splits(folder: Path) -> list[tuple[str, Path]]:
    """Return the names and folders of the splits; of a folder without splits "" and itself."""
    path = folder / _SPLITS_FILE
    if not os.path.isfile(path):
        return [("", folder)]
    names = read_json(path).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise FileFormatError(f"{path} doesn't list splits, expected names of folders. Write the dataset again.")
    return [(name, folder / name) for name in names]


def count_rows(folder: Path, options: TokenizationOptions) -> int:
    """Return the number of rows. Raises ``ConfigError`` where there is no column, ``FileFormatError``."""
    dataset = _open(folder)
    for column in columns(options):
        if column not in dataset.column_names:
            raise ConfigError(
                f"{folder} has no column {column!r}; it has {', '.join(dataset.column_names)}. Name others as "
                "picture_field and caption_field (--picture-field, --caption-field)."
            )
    return len(dataset)


def rows(folder: Path, start: int, stop: int, options: TokenizationOptions) -> Iterator[tuple[Any, Any]]:
    """Yield the picture and the caption of each row, as ``parquet.rows`` does. Raises ``FileFormatError``."""
    names = columns(options)
    dataset = _open(folder).select_columns(names).with_format("arrow")
    for first in range(start, stop, _ROWS):
        try:
            table = dataset[first : min(first + _ROWS, stop)]
        except Exception as error:  # of datasets and pyarrow, which promise nothing about damaged files
            raise FileFormatError(f"rows {first} to {min(first + _ROWS, stop) - 1}: {error}") from error
        for number in range(table.num_rows):
            picture = cell(table.column(names[0])[number])
            yield picture, cell(table.column(names[1])[number]) if len(names) > 1 else None


def _open(folder: Path) -> Any:
    with requires_extra(f"reading {folder}", extra="datasets"):
        from datasets import load_from_disk
    try:
        return load_from_disk(str(folder))
    except Exception as error:  # of datasets and pyarrow, which promise nothing about damaged files
        raise FileFormatError(
            f"{folder} can't be read as a dataset: {error}. Write it again by save_to_disk."
        ) from error
