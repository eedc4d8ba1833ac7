"""Files of ``torch.save``: their tensors, memory-mapped, and nothing else of them.

Such a file is a pickle in an archive. It is read with ``weights_only=True``, which calls no function that a file names;
classes that it names beside its tensors, as trainers leave them, are replaced by an empty one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .._files import check_is_file, reading, writing
from ..errors import FileAccessError, FileFormatError
from .contract import StoredTensor
from .safetensors_files import bytes_of

_STORAGE = re.compile(r".+/data/(\d+)")
"""The names of the archive's entries that are the bytes of a tensor, numbered in the order of the tensors."""
_HEADER = struct.Struct("<26xHH")
"""What is before an entry of a zip archive: the lengths of its name and of more that follow it."""
_DIRECTORY = struct.Struct("<16xI8xHHH12x")
"""An entry of the archive's directory: its checksum, and the lengths of what follows it."""
_CHECKSUM = 16
"""Where in an entry of the directory its checksum is."""
_DESCRIPTOR = b"PK\x07\x08"
"""What begins the descriptor behind an entry, before its checksum."""
_AGAIN = "It was probably truncated by an interrupted download or copy; download it again."


class _Anything:
    """Stands for an object of a class that isn't a tensor's."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def open_torch_file(path: Path) -> dict[str, Any]:
    """Return the mapping that a file holds, with tensors that are views of the memory-mapped file.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` where the file is damaged, compressed,
    older than torch 1.6 or holds no mapping.
    """
    check_is_file(path)
    with reading(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(_Anything, name) for name in names]):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileFormatError:
        raise
    # A damaged pickle raises whatever the instructions in it run into.
    except Exception as error:
        reason = str(error).splitlines()[0] if isinstance(error, RuntimeError) and str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "its pickle has more than tensors and plain values"
        raise FileFormatError(
            f"{path} can't be read as a file of torch.save: {reason.rstrip('.')}. {_AGAIN}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise FileFormatError(f"{path} holds a {type(content).__name__}; expected a mapping from names to tensors.")
    return content


def tensors_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a mapping, without entries that are None. Raises ``FileFormatError`` for anything else."""
    tensors = {}
    for name, value in content.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise FileFormatError(f"{path} holds a {type(value).__name__} named {name!r:.80}; expected dense tensors.")
        held = value.untyped_storage().nbytes()
        if value.numel() * value.itemsize > held:
            raise FileFormatError(
                f"{path}: {name!r:.80} has the shape {list(value.shape)}, more than the {held:,} bytes that the file "
                "has of it. Save the tensor contiguous."
            )
        tensors[name] = value.detach()
    return tensors


def write_torch_file(path: Path, tensors: Mapping[str, StoredTensor], *, inside: str | None = None) -> None:
    """Write the file that ``torch.save`` writes of tensors, loading one at a time.

    ``inside`` is the name of the entry that has them; by default they are the entries. Raises ``FileAccessError`` where
    the system doesn't let it be written.
    """
    state = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in tensors.items()}  # never written to
    try:
        with torch.serialization.skip_data():
            torch.save(state if inside is None else {inside: state}, path)
    except RuntimeError as error:  # a full disk, for instance
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileAccessError(
            f"{path.name} can't be written: {reason}. Check that there is space and that the folder can be written to."
        ) from error
    with writing(path), zipfile.ZipFile(path) as archive, path.open("r+b") as file:
        at, stored = archive.start_dir, list(tensors.values())
        for entry in archive.infolist():  # in the order of the directory
            number = _STORAGE.fullmatch(entry.filename)
            if number is not None:
                _fill(file, entry, at, stored[int(number[1])])
            at += _DIRECTORY.size + sum(_DIRECTORY.unpack(_read_at(file, at, _DIRECTORY.size))[1:])


def _fill(file: BinaryIO, entry: zipfile.ZipInfo, place: int, tensor: StoredTensor) -> None:
    """Write the bytes of an entry, and their checksum behind them and in the directory at ``place``."""
    file.seek(
        entry.header_offset + _HEADER.size + sum(_HEADER.unpack(_read_at(file, entry.header_offset, _HEADER.size)))
    )
    checksum = 0
    for piece in tensor.in_pieces():
        whole = piece.contiguous()
        file.write(bytes_of(whole))
        checksum = zlib.crc32(bytes_of(whole), checksum)
    written = struct.pack("<I", checksum)
    behind = file.tell()
    if _read_at(file, behind, len(_DESCRIPTOR)) == _DESCRIPTOR:
        file.seek(behind + len(_DESCRIPTOR))
        file.write(written)
    file.seek(place + _CHECKSUM)
    file.write(written)


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Return bytes of a file; the next write is where it would have been."""
    before = file.tell()
    file.seek(place)
    content = file.read(size)
    file.seek(before)
    return content


def _check_archive(path: Path) -> None:
    """Raise ``FileFormatError`` where a file isn't an archive of as many bytes as its entries, which torch writes."""
    size = os.stat(path).st_size
    try:
        with contextlib.closing(zipfile.ZipFile(path)) as archive:
            entries = archive.infolist()
    # A damaged directory raises several kinds of errors.
    except Exception as error:
        raise FileFormatError(
            f"{path} ({size:,} bytes) is not a file of torch.save of torch 1.6 or newer: {error}. {_AGAIN}"
        ) from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > size:
        raise FileFormatError(
            f"{path} is a compressed archive, which torch.save doesn't write. Load it with torch, and save it again."
        )
