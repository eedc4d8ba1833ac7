"""The sources of a data set cut into units of work: slices of folders and datasets, tar shards, row groups.

The units and their order depend on the sources alone, so that any number of workers writes the same shards, and a job
that is resumed finds its own.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from .._boundary import translates_errors
from ..errors import ConfigError, FileFormatError, MissingFileError
from ..optional_packages import vq_package
from . import arrow
from .caption_files import CAPTION_FILES, METADATA_FILES, read_captions
from .options import TokenizationOptions
from .parquet import row_groups

TAR = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
_MOST_NAMED = 5


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Some pictures of one source, which one process encodes into one token shard."""

    kind: Literal["folder", "tar", "parquet", "arrow"]
    """How its pictures are read."""
    path: str
    """The folder, or the file."""
    name: str
    """What the keys of its documents begin with; "" for a folder, whose pictures have their relative paths as keys."""
    size: int
    """Bytes of the file, or of the pictures of the folder."""
    pictures: tuple[str, ...] = ()
    """Of a folder: the paths of the pictures in it."""
    captions: tuple[str | None, ...] | None = None
    """Of a folder with a file of captions: the caption of each picture that it has one of."""
    row_group: int = 0
    """Of a parquet file: which of its row groups, counted from 0."""
    first_row: int = 0
    """Of a parquet file or a saved dataset: the number of the unit's first row."""
    rows: int = 0
    """Of a saved dataset: how many rows."""


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """The units of a data set, and what was left out of them."""

    units: tuple[Unit, ...]
    skipped: tuple[tuple[str, str], ...]
    """Files of folders that are no source, and why."""

    def digest(self) -> str:
        """Return a hash, in hex, of the names and sizes of all that is read."""
        digest = hashlib.sha256()
        for unit in self.units:
            fields = msgspec.to_builtins(msgspec.structs.replace(unit, path=""))
            if not unit.rows:
                del fields["rows"]  # which jobs of earlier versions don't have
            digest.update(msgspec.json.encode(fields))
        return digest.hexdigest()


@translates_errors
def find_units(sources: Sequence[str | os.PathLike[str]], options: TokenizationOptions) -> Units:
    """Return the units of work in folders of pictures, files of captions, tar shards, parquet files and saved datasets.

    A folder may hold pictures, tar shards and parquet files, in subfolders, too. Raises ``MissingFileError`` and
    ``FileFormatError`` for sources that aren't there or have no pictures, and ``ConfigError`` where two files would
    have the same keys.
    """
    units: list[Unit] = []
    skipped: list[tuple[str, str]] = []
    for source in map(Path, sources):
        if os.path.isdir(source):
            is_saved = arrow.is_saved_dataset(source)
            units += _units_of_dataset(source, options) if is_saved else _units_of_folder(source, options, skipped)
        elif not os.path.isfile(source):
            raise MissingFileError(
                f"there is no {source}. Pass folders of pictures, files of captions, tar shards or parquet files."
            )
        elif source.suffix.lower() in CAPTION_FILES:
            units += _units_of_captions(source, options)
        elif (kind := _archive_kind(source)) is None:
            raise FileFormatError(
                f"{source} is not a source of pictures. Pass folders of pictures, files of captions "
                f"({', '.join(CAPTION_FILES)}), tar shards ({', '.join(TAR)}) or parquet files ({', '.join(PARQUET)})."
            )
        else:
            units += _units_of_archive(kind, source, source.name, options)
    if not units:
        named = ", ".join(map(str, sources)) or "no source"
        raise FileFormatError(f"there are no pictures, tar shards or parquet files in {named}.")
    _check_names(units)
    return Units(units=tuple(units), skipped=tuple(skipped))


def _units_of_folder(folder: Path, options: TokenizationOptions, skipped: list[tuple[str, str]]) -> Iterator[Unit]:
    others: list[tuple[Path, str]] = []
    pictures = list(vq_package().pictures.pictures_in(folder, on_skip=lambda path, why: others.append((path, why))))
    captions: dict[Path, str | None] | None = None
    archives: list[tuple[Path, Literal["tar", "parquet"]]] = []
    suffix = f".{options.caption_field or 'txt'}"
    beside = {path.with_suffix(suffix) for path in pictures}
    for path, reason in others:
        if (kind := _archive_kind(path)) is not None and os.path.isfile(path):
            archives.append((path, kind))
        elif options.order != "picture-only" and path.name in METADATA_FILES:
            read = read_captions(path, options.caption_field or "text")
            captions = {**(captions or {}), **{path.parent / name: caption for name, caption in read.items()}}
        elif path not in beside:
            skipped.append((str(path), reason))
    # What a file of captions names and isn't there is refused when it is read, with the reason.
    pictures = sorted({*pictures, *(captions or ())})
    yield from _units_of_pictures(folder, pictures, captions, options)
    for path, kind in archives:
        yield from _units_of_archive(kind, path, path.relative_to(folder).as_posix(), options)


def _units_of_captions(path: Path, options: TokenizationOptions) -> Iterator[Unit]:
    """Return the units of the pictures that a file of captions names, in its order."""
    field = None if options.order == "picture-only" else options.caption_field or "text"
    captions = {path.parent / name: caption for name, caption in read_captions(path, field).items()}
    yield from _units_of_pictures(path.parent, list(captions), None if field is None else captions, options)


def _units_of_pictures(
    folder: Path, pictures: Sequence[Path], captions: dict[Path, str | None] | None, options: TokenizationOptions
) -> Iterator[Unit]:
    for start in range(0, len(pictures), options.unit_size):
        part = pictures[start : start + options.unit_size]
        yield Unit(
            kind="folder",
            path=str(folder),
            name="",
            size=sum(os.path.getsize(path) for path in part if os.path.isfile(path)),
            pictures=tuple(path.relative_to(folder).as_posix() for path in part),
            captions=None if captions is None else tuple(map(captions.get, part)),
        )


def _units_of_dataset(folder: Path, options: TokenizationOptions) -> Iterator[Unit]:
    for split, path in arrow.splits(folder):
        count = arrow.count_rows(path, options)
        size = sum(file.stat().st_size for file in path.glob("*.arrow"))
        for start in range(0, count, options.unit_size):
            yield Unit(
                kind="arrow",
                path=str(path),
                name=f"{folder.name}/{split}" if split else folder.name,
                size=size,
                first_row=start,
                rows=min(options.unit_size, count - start),
            )


def _units_of_archive(
    kind: Literal["tar", "parquet"], path: Path, name: str, options: TokenizationOptions
) -> Iterator[Unit]:
    size = os.path.getsize(path)
    if kind == "tar":
        yield Unit(kind="tar", path=str(path), name=name, size=size)
        return
    first = 0
    for number, rows in enumerate(row_groups(path, options)):
        yield Unit(kind="parquet", path=str(path), name=name, size=size, row_group=number, first_row=first)
        first += rows


def _archive_kind(path: Path) -> Literal["tar", "parquet"] | None:
    name = path.name.lower()
    return "tar" if name.endswith(TAR) else "parquet" if name.endswith(PARQUET) else None


def _check_names(units: Sequence[Unit]) -> None:
    """Raise ``ConfigError`` where documents of two files would have one key."""
    names = Counter(
        name for unit in units for name in unit.pictures or (f"{unit.name} {unit.row_group or unit.first_row}",)
    )
    twice = [name.removesuffix(" 0") for name, count in names.items() if count > 1]
    if twice:
        more = f" and {len(twice) - _MOST_NAMED} more" if len(twice) > _MOST_NAMED else ""
        raise ConfigError(
            f"several sources have files of one name: {', '.join(twice[:_MOST_NAMED])}{more}. Pass the folder that "
            "has all of them."
        )
