"""The pictures and captions of a unit of work, one after the other; what can't be read comes with the reason."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._files import read_bytes
from ..errors import ChameleonCoreError, FileFormatError
from ..optional_packages import vq_package
from . import arrow
from .options import TokenizationOptions
from .parquet import rows
from .units import Unit

MAX_BYTES = 1 << 28
"""The largest file in a tar shard that is read: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture with its caption."""

    key: str
    """The key of its document, unique in the data set."""
    picture: Path | bytes = b""
    """The file, or what is in it."""
    caption: str | None = None
    """The caption; None where none is read."""
    problem: str | None = None
    """Why there is no picture or no caption; None where there are."""


def read_samples(unit: Unit, options: TokenizationOptions) -> Iterator[Sample]:
    """Yield the samples of a unit, in the order in which it has them."""
    read = {"folder": _in_folder, "tar": _in_tar, "parquet": _in_parquet, "arrow": _in_arrow}[unit.kind]
    seen: set[str] = set()
    for sample in read(unit, options):
        if sample.key in seen and sample.problem is None:
            sample = replace(sample, problem="an earlier sample has the same name")
        seen.add(sample.key)
        yield sample


def _in_folder(unit: Unit, options: TokenizationOptions) -> Iterator[Sample]:
    folder = Path(unit.path)
    suffix = f".{options.caption_field or 'txt'}"
    for number, name in enumerate(unit.pictures):
        path = folder / name
        if options.order == "picture-only":
            yield Sample(name, path)
        elif unit.captions is not None and (caption := unit.captions[number]) is not None:
            yield _sample(name, path, caption, options)
        else:
            try:
                yield _sample(name, path, read_bytes(path.with_suffix(suffix)), options)
            except ChameleonCoreError as error:
                yield Sample(name, path, problem=f"the picture has no caption: {error}")


def _in_tar(unit: Unit, options: TokenizationOptions) -> Iterator[Sample]:
    """Yield the samples of a tar shard: files next to each other that have the same name up to its first full stop."""
    name = ""
    files: dict[str, bytes | str] = {}
    damage = None
    try:
        with tarfile.open(unit.path, "r|*", tarinfo=_Header) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key, suffix = _split(member.name)
                if files and (key != name or suffix in files):
                    yield _sample_of_files(f"{unit.name}/{name}", files, options)
                    files = {}
                name = key
                files[suffix] = _content(archive, member)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        damage = f"the tar shard can't be read to its end: {error}"
    if files:
        yield _sample_of_files(f"{unit.name}/{name}", files, options)
    if damage is not None:
        yield Sample(unit.name, problem=damage)


class _Header(tarfile.TarInfo):
    """A header of a tar file; ``tarfile`` takes a damaged one for the end, and so hides what follows it."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"at byte {archive.offset:,}: {error}") from error


def _split(name: str) -> tuple[str, str]:
    """Return the name of the sample that a file belongs to, and the file's suffix without its full stop."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file[1:].partition(".")
    return f"{folder}{slash}{file[:1]}{stem}", suffix.lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    """Return the bytes of a file, or why it isn't read."""
    if member.size > MAX_BYTES:
        return f"{member.name} has {member.size:,} bytes, more than {MAX_BYTES:,}"
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut short")
    return data


def _sample_of_files(key: str, files: dict[str, bytes | str], options: TokenizationOptions) -> Sample:
    suffixes = vq_package().pictures.SUFFIXES
    picture = next((data for suffix, data in files.items() if f".{suffix.rpartition('.')[2]}" in suffixes), None)
    if picture is None:
        return Sample(key, problem=f"it has no picture, but {', '.join(sorted(files))}")
    wanted = options.caption_field or "txt"
    if wanted not in files and options.order != "picture-only":
        return Sample(key, problem=f"it has no caption {wanted!r}, but {', '.join(sorted(files))}")
    return _sample(key, picture, files.get(wanted), options)


def _in_parquet(unit: Unit, options: TokenizationOptions) -> Iterator[Sample]:
    number = unit.first_row
    try:
        for picture, caption in rows(Path(unit.path), unit.row_group, options):
            yield _sample(f"{unit.name}/{number}", picture, caption, options)
            number += 1
    except FileFormatError as error:
        reason = f"row group {unit.row_group} can't be read from row {number}: {error}"
        yield Sample(f"{unit.name}/{number}", problem=reason)


def _in_arrow(unit: Unit, options: TokenizationOptions) -> Iterator[Sample]:
    number = unit.first_row
    try:
        for picture, caption in arrow.rows(Path(unit.path), number, number + unit.rows, options):
            yield _sample(f"{unit.name}/{number}", picture, caption, options)
            number += 1
    except FileFormatError as error:
        yield Sample(f"{unit.name}/{number}", problem=f"the rows from {number} can't be read: {error}")


def _sample(key: str, picture: Any, caption: Any, options: TokenizationOptions) -> Sample:
    """Return a sample of what was found, with the problem where that is no picture or no caption."""
    if isinstance(picture, str):
        return Sample(key, problem=picture)
    if not isinstance(picture, bytes | Path):
        return Sample(key, problem=f"the picture is {_kind(picture)}, expected bytes")
    if options.order == "picture-only":
        return Sample(key, picture)
    if isinstance(caption, bytes):
        try:
            caption = caption.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Sample(key, problem=f"the caption isn't UTF-8: {error}")
    if not isinstance(caption, str):
        return Sample(key, problem=f"the caption is {_kind(caption)}, expected a text")
    if not caption.strip():
        return Sample(key, problem="the caption is empty")
    return Sample(key, picture, caption.strip())


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
