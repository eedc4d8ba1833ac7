"""Errors of the operating system, of JSON and of safetensors as errors of this package."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ._files import read_json, write_json
from .errors import ChameleonVQError, FileAccessError, FileFormatError, MissingFileError

_HINTS = {
    errno.ENOSPC: "Free some space and try again.",
    errno.EDQUOT: "Free some space and try again.",
    errno.EACCES: "Check the permissions, or choose another place.",
    errno.EPERM: "Check the permissions, or choose another place.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``MissingFileError`` or ``FileAccessError`` for errors of the operating system inside the block."""
    with _translating(path, "read"):
        yield


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``FileAccessError`` for errors of the operating system inside the block, those in safetensors too."""
    with _translating(path, "written"):
        try:
            yield
        except SafetensorError as error:
            raise FileAccessError(
                f"{path} can't be written: {error}. Check that there is space and that the folder can be written to."
            ) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ``FileAccessError`` if a file can't be written, before the work whose result it is to hold."""
    target = Path(path)
    with writing(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "there is a folder of that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        trial = target.parent / f".{target.name}.{os.getpid()}.tmp"
        trial.touch()
        trial.unlink()


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``MissingFileError``, ``FileAccessError``, ``FileFormatError``."""
    with reading(path):
        try:
            return read_json(path)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ChameleonVQError):
                raise
            # Numbers of thousands of digits, and lists inside lists without end.
            raise FileFormatError(
                f"{path} is not JSON that can be read: {error}. Expected a JSON object; download the file again."
            ) from error


def write_object(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object. Raises ``FileAccessError``."""
    with writing(path):
        write_json(path, data)


@contextmanager
def _translating(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    try:
        yield
    except ChameleonVQError:
        raise
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, FileNotFoundError) and what == "read":
            raise MissingFileError(f"there is no {path}; expected a file.") from error
        reason = getattr(error, "strerror", None) or str(error)
        hint = _HINTS.get(getattr(error, "errno", None) or 0, "Choose another path.")
        raise FileAccessError(f"{path} can't be {what}: {reason}. {hint}") from error
