"""Files of ``torch.save``: their tensors, memory-mapped, and nothing else of them.

Such a file is a pickle in an archive. It is read with ``weights_only=True``, which calls no function that a file names;
classes that it names beside its tensors, as trainers leave them, are replaced by an empty one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import check_is_file, reading
from ..errors import FileAccessError, FileFormatError

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


def write_torch_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file. Raises ``FileAccessError`` where the system doesn't let it be written."""
    try:
        torch.save(dict(content), path)
    except RuntimeError as error:  # a full disk, for instance
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileAccessError(
            f"{path.name} can't be written: {reason}. Check that there is space and that the folder can be written to."
        ) from error


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
