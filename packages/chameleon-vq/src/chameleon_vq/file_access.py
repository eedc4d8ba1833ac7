"""Write files through safetensors and others, with errors of this package."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from . import _files
from .errors import FileAccessError


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``FileAccessError`` for errors of the operating system inside the block, those in safetensors too."""
    with _files.writing(path):
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
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "there is a folder of that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        trial = target.parent / f".{target.name}.{os.getpid()}.tmp"
        trial.touch()
        trial.unlink()
