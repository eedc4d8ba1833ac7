"""One input: a format's small valid folder, broken as its index says, read, and judged."""

from __future__ import annotations

import enum
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch

Files = dict[str, bytes]
"""The content of a folder, by names in it. These contents stand for something that isn't a plain file:"""
FOLDER, LOOP, FIFO = b"\0fuzz: a folder", b"\0fuzz: a link to itself", b"\0fuzz: a pipe"

Mutate = Callable[[Random, Files], list[str]]
"""Changes files in place and says, in a line each, what it changed."""


class Unsound(BaseException):  # no error, but a verdict
    """Raised by a format's ``read`` where a reader accepted something that it must not have (NaN, an id too large).

    Not an ``Exception``, so that no reader can catch it.
    """


@dataclass(frozen=True)
class Format:
    """A kind of file that the toolkit reads."""

    name: str
    seed: Callable[[], Files]
    """Makes a small valid folder, once in a run."""
    mutate: Mutate
    read: Callable[[Path], object]
    """Calls the public reader on a folder, and uses a little what it returns."""
    error: type[Exception] | tuple[type[Exception], ...]
    """The base of the errors with which the reader may refuse it."""
    what: str
    """The files, and the call, for the list."""
    share: float = 1.0
    """How many inputs it gets for each one of an ordinary format: less for a slow reader."""
    needs: str = ""
    """A module of another package, without which the format is left out."""

    @cached_property
    def files(self) -> Files:
        """The valid folder."""
        return self.seed()

    def input(self, index: int) -> tuple[Files, list[str]]:
        """The broken folder of this index, and what was broken. Index 0 is the valid folder."""
        files = dict(self.files)
        return files, self.mutate(Random(f"{self.name} {index}"), files) if index else ["nothing was changed"]


class Outcome(enum.StrEnum):
    """What came of an input; all but the first two are findings."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FOREIGN = "foreign"
    """An exception that isn't the package's: of Python, of a library, of Rust."""
    UNSOUND = "unsound"
    """It was accepted, and should not have been."""
    HANG = "hang"
    CRASH = "crash"
    MEMORY = "memory"

    @property
    def is_finding(self) -> bool:
        """Whether it is a fault."""
        return self not in (Outcome.ACCEPTED, Outcome.REFUSED)


@dataclass(frozen=True)
class Verdict:
    """What came of one input."""

    format: str
    index: int
    outcome: Outcome
    error: str = ""
    """The type of the exception, or the signal."""
    message: str = ""
    place: str = ""
    """``file:function`` of the toolkit's last frame, and of the very last one where that is elsewhere."""
    notes: list[str] = field(default_factory=list)
    """How the input was broken."""
    seconds: float = 0.0

    @property
    def fault(self) -> tuple[str, ...]:
        """What is the same for inputs that show the same fault."""
        return (self.outcome, self.error, self.place)


def judge(form: Format, index: int, folder: Path, *, begin: Callable[[], object] = lambda: None) -> Verdict:
    """Read one input in this process, within ``folder``, which is empty before and after.

    ``begin`` is called once the input is made, before it is read.
    """
    files, notes = form.input(index)
    write(files, folder)
    begin()
    error: BaseException | None = None
    try:
        form.read(folder)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # Rust's panics are no Exceptions
        error = caught
    finally:
        clear(folder)
    if error is None:
        return Verdict(form.name, index, Outcome.ACCEPTED, notes=notes)
    if isinstance(error, Unsound):
        outcome = Outcome.UNSOUND
    elif _is_of_memory(error):
        outcome = Outcome.MEMORY
    else:
        outcome = Outcome.REFUSED if isinstance(error, form.error) else Outcome.FOREIGN
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    message = _message(error)
    return Verdict(form.name, index, outcome, kind, message[:500], _place(error), notes)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as fault:
        return f"(its message can't be made: {fault!r})"
    return text.encode("utf-8", "backslashreplace").decode()


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that there isn't, even where the reader made its own error of that."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError) or "can't allocate memory" in _message(chain)[:5_000]:
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _place(error: BaseException) -> str:
    # The frames of a recursion are thousands; its ends say where it is.
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, f"{short(frame.filename)}:{frame.name}") for frame in frames]
    own = next((place for name, place in reversed(places) if "/chameleon_" in name and "site-packages" not in name), "")
    last = places[-1][1] if places else ""
    if not own or own == last:
        return last
    return own if isinstance(error, RecursionError) else f"{own} ({last})"


def short(filename: str) -> str:
    """The path from the package's own folder on."""
    parts = Path(filename).parts
    for mark in ("src", "site-packages", "lib", "tests"):
        if mark in parts:
            rest = parts[len(parts) - parts[::-1].index(mark) :]
            return "/".join(rest[-3:])
    return parts[-1] if parts else filename


def write(files: Files, folder: Path) -> None:
    """Write a broken folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if content == FOLDER:
            path.mkdir()
        elif content == LOOP:
            path.symlink_to(name)
        elif content == FIFO:
            os.mkfifo(path)
        else:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(content)


def clear(folder: Path) -> None:
    """Remove a broken folder."""
    shutil.rmtree(folder, ignore_errors=True)


def check_finite(what: str, *tensors: Any) -> None:
    """Raise ``Unsound`` where a number isn't finite."""
    for tensor in tensors:
        values = torch.as_tensor(tensor)
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise Unsound(f"{what}: not all numbers are finite")


def check_within(what: str, ids: Any, size: int) -> None:
    """Raise ``Unsound`` where a code or an id isn't from 0 to ``size - 1``."""
    values = torch.as_tensor(ids)
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= size):
        raise Unsound(f"{what}: values from {int(values.min())} to {int(values.max())}, expected 0 to {size - 1}")
