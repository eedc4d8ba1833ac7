"""Processes that die while they change a folder: at each change in turn, killed, or refused by a full disk.

The changes are the audit events of Python (``open`` for writing, ``os.rename``, ``os.remove``, ``os.mkdir`` and so on),
calls of ``os.fsync``, and the files that safetensors writes outside Python. A file that is opened for writing is two
points: before it is there, and once it is there and empty; one of safetensors is a point when it is half written.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch

CHANGES = frozenset(
    {
        *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"),
        *("os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree"),
    }
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Die = Callable[[], None]


def kill() -> None:
    """Die as by ``kill -9``: nothing is cleaned up, and what wasn't flushed is lost."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Changes:
    """Counts the changes below a folder, and does something at one of them."""

    def __init__(self, root: Path, at: int | None = None, do: Die | None = None) -> None:
        self.root = str(root)
        self.at = at
        self.do = do
        self.seen: list[str] = []
        self._active = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self._active:
            return
        if event in CHANGES:
            paths = [each for each in arguments if isinstance(each, (str, bytes, os.PathLike))]
            self._point(event, *paths)
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & WRITING:
            path, _, flags = arguments
            self._point("open", path)
            self._point("opened", path, first=lambda: os.close(os.open(path, flags & ~os.O_EXCL, 0o600)))

    def fsync(self, real: Callable[[int], None]) -> Callable[[Any], None]:
        """``os.fsync``, which has no audit event."""

        def fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            self._point("fsync", os.readlink(f"/proc/self/fd/{number}"))
            real(number)

        return fsync

    def serialize_file(self, real: Callable[..., None]) -> Callable[..., None]:
        """How safetensors writes a file, outside Python."""

        def serialize_file(tensors: Any, path: Any, *more: Any, **options: Any) -> None:
            def write_half() -> None:
                whole = safetensors.torch.serialize(tensors, *more, **options)
                Path(path).write_bytes(whole[: len(whole) // 2])

            self._point("safetensors", path)
            self._point("half of safetensors", path, first=write_half)
            real(tensors, path, *more, **options)

        return serialize_file

    def _point(self, what: str, *paths: Any, first: Die | None = None) -> None:
        names = [os.path.abspath(os.fsdecode(path)) for path in paths]
        if not any(name.startswith(self.root) for name in names):
            return
        self.seen.append(" ".join([what, *(os.path.relpath(name, self.root) for name in names)]))
        if self.do is not None and len(self.seen) - 1 == self.at:
            self._active = False
            if first is not None:
                first()
            self.do()
            # After a refusal the process lives on, and cleans up; nothing more is refused.


@contextmanager
def watched(changes: Changes) -> Iterator[None]:
    """Within the block, changes are counted. For a process of its own: an audit hook can't be removed."""
    sys.addaudithook(changes)
    fsync, serialize_file = os.fsync, safetensors.torch.serialize_file
    os.fsync, safetensors.torch.serialize_file = changes.fsync(fsync), changes.serialize_file(serialize_file)
    try:
        yield
    finally:
        changes._active = False
        os.fsync, safetensors.torch.serialize_file = fsync, serialize_file


def in_child(work: Callable[[], object], *, seconds: float = 60.0) -> int:
    """Run something in a forked process: 0 where it ended well, 1 after an exception, -9 where it was killed."""
    return wait_for(start(work), seconds)


def start(work: Callable[[], object]) -> int:
    """Run something in a forked process, and return its number. ``SystemExit`` says its exit status."""
    with warnings.catch_warnings():
        # "multi-threaded, use of fork() may lead to deadlocks": the threads here are idle ones of torch.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException as error:  # the parent reads the status
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    return child


def wait_for(child: int, seconds: float) -> int:
    """The exit status of a child; ``TimeoutError`` where it takes longer, after killing it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"a save took more than {seconds} s")


def points_of(save: Callable[[], object], root: Path) -> list[str]:
    """The changes that a save makes, in order. The save is done in a child, so ``root`` has it afterwards."""
    listed = root.parent / f"{root.name}-changes"

    def work() -> None:
        changes = Changes(root)
        with watched(changes):
            save()
        listed.write_text("\n".join(changes.seen), encoding="utf-8")

    assert in_child(work) == 0
    return listed.read_text(encoding="utf-8").splitlines()
