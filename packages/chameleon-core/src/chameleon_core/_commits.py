# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Commits: the files of a folder change all at once or not at all, whenever the process that writes them dies.

A save writes into a hidden folder inside its target. Renaming that folder to ``.chameleon-commit`` is the commit; then
each file is moved to its place. Where a process died before all were moved, ``stored`` finds the others, and the next
save moves them first.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and what killed processes left is kept
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

COMMIT = ".chameleon-commit"
_REMOVED = ".removed"
"""A file of a commit: patterns of what the save replaces, a line each; once committed, the names of what goes."""
_SAVE = "chameleon-save"
_SCRATCH = re.compile(r"\..+\.\d{8}\.tmp", re.DOTALL)
_FORMERLY = re.compile(r"\.(.+)\.\w{8}\.tmp", re.DOTALL)
"""How earlier releases named the temporary file of a file."""
_MAX_OPTIMISTIC = 5


@contextlib.contextmanager
def committing(folder: str | os.PathLike[str], *, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well, its files take their places in ``folder`` in one commit.

    Files of ``folder`` whose names match a pattern of ``replaces`` and that the block didn't write are removed by the
    same commit. When the block raises, ``folder`` stays as it was. Two commits to a folder wait for each other; one
    within another, whose folder it gets, is part of it.
    """
    folder = Path(folder)
    if is_save(folder):
        _append(folder / _REMOVED, replaces)
        yield folder
        return
    is_new = not os.path.isdir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            _finish(folder)
            remove_leftovers(folder)
            with scratch(folder, _SAVE) as save:
                (save / _REMOVED).touch()
                _append(save / _REMOVED, replaces)
                yield save
                _commit(save, folder)
            _finish(folder)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise


def changed_by(save: Path, folder: Path) -> list[str]:
    """Return the names of the files of ``folder`` that the commit of a save would change or remove, sorted."""
    files = {str(path.relative_to(save)): path for path in save.rglob("*") if os.path.isfile(path)}
    patterns = (save / _REMOVED).read_text(encoding="utf-8").split("\n")
    there = {name: path for name, path in files.items() if name != _REMOVED and os.path.lexists(folder / name)}
    changed = [
        name
        for name, path in there.items()
        if not os.path.isfile(folder / name) or not filecmp.cmp(path, folder / name, shallow=False)
    ]
    return sorted([*changed, *_stale(save, folder, patterns)])


def finish_commit(folder: Path) -> None:
    """Move the files of a commit whose process was killed to their places."""
    if _is_commit(folder / COMMIT):
        with locked(folder):
            _finish(folder)


def stored(folder: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a file in ``folder``, which a commit may not have moved to its place yet.

    Nothing is there where the folder has no such file, or the commit removes it.
    """
    committed = Path(folder) / COMMIT / name
    if os.path.exists(committed) or name in _removed(Path(folder)):
        return committed
    return Path(folder) / name


def read_whole(folder: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """Return ``read()``, which reads files of ``folder``, all of them from the same save.

    It is called again where the folder changed meanwhile.
    """
    for _ in range(_MAX_OPTIMISTIC):
        before = _state(folder)
        try:
            result = read()
        except Exception:
            if _state(folder) == before:
                raise
        else:
            if _state(folder) == before:
                return result
    with locked(Path(folder), shared=True):
        return read()


@contextlib.contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new hidden folder in ``folder``, locked while the block runs and removed after it."""
    with contextlib.ExitStack() as stack:
        number = 0
        while True:
            path = folder / f".{name[:60]}.{number:08d}.tmp"
            try:
                path.mkdir()
            except FileExistsError:
                if not _remove_left(path):
                    number += 1  # another process writes there
                continue
            try:
                stack.enter_context(locked(path))
            except FileNotFoundError:
                continue  # another process took it for left behind before it was locked
            break
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders that killed processes left in ``folder``."""
    for path in folder.iterdir():
        if _SCRATCH.fullmatch(path.name):
            _remove_left(path)


def sync(path: Path) -> None:
    """Return once a file or a folder is on the disk."""
    if fcntl is None and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if fcntl else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or folder during the block, and yield whether it is held.

    It isn't where another process or thread has it and ``wait`` is false, or where the file system has no locks. It
    ends with the process. Raises ``FileNotFoundError`` where nothing is at ``path``.
    """
    if fcntl is None:
        yield False
        return
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    with contextlib.ExitStack() as stack:
        while True:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, operation)
                held = True
            except OSError:
                held = False
            if os.path.samestat(os.fstat(handle), os.stat(path)):  # nobody replaced it meanwhile
                break
        if held:
            # Closing isn't enough where another thread has forked: the child has the handle, too.
            stack.callback(fcntl.flock, handle, fcntl.LOCK_UN)
        yield held


def is_save(folder: Path) -> bool:
    return folder.name.startswith(f".{_SAVE}.") and os.path.isfile(folder / _REMOVED)


def _is_commit(path: Path) -> bool:
    return os.path.isdir(path) and not path.is_symlink()


def _append(path: Path, lines: Sequence[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _commit(save: Path, folder: Path) -> None:
    """Rename a save to the commit of its folder, once all of it is on the disk."""
    removed = save / _REMOVED
    patterns = removed.read_text(encoding="utf-8").split("\n")
    mode = stat.S_IMODE(removed.stat().st_mode)
    files = [path for path in sorted(save.rglob("*")) if os.path.isfile(path)]
    for path in files:
        target = folder / path.relative_to(save)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, f"{target.name} is a folder there")
    stale = _stale(save, folder, patterns)
    removed.write_text("".join(f"{name}\n" for name in sorted(stale)), encoding="utf-8")
    for path in files:
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)  # safetensors makes files that only their owner can read
        sync(path)
    for path in [*(each for each in save.rglob("*") if os.path.isdir(each)), save]:
        sync(path)
    os.rename(save, folder / COMMIT)
    sync(folder)


def _stale(save: Path, folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the names of the files of a folder that the commit of a save removes."""
    names = {path.name for path in save.iterdir()}
    others = {path.name for path in folder.iterdir() if os.path.isfile(path)} - names
    stale = [name for name in others if any(fnmatchcase(name, each) for each in patterns)]
    return stale + [name for name in others if (match := _FORMERLY.fullmatch(name)) and match[1] in {*names, *stale}]


def _finish(folder: Path) -> None:
    commit = folder / COMMIT
    if not _is_commit(commit):
        return
    removed = _removed(folder)
    for path in sorted(commit.rglob("*")):
        if os.path.isfile(path) and path != commit / _REMOVED:
            target = folder / path.relative_to(commit)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    sync(folder)
    shutil.rmtree(commit)


def _removed(folder: Path) -> list[str]:
    """Return the names of what a commit removes."""
    path = folder / COMMIT / _REMOVED
    if not os.path.isfile(path):
        return []
    try:
        names = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:  # it was just finished
        return []
    # A folder from elsewhere is trusted with its own files at most.
    return [name for name in names if Path(name).name == name not in ("", "..")]


def _remove_left(path: Path) -> bool:
    """Remove what a killed process left; return false where its process lives, or that can't be known."""
    try:
        with locked(path, wait=False) as is_left:
            if is_left:
                shutil.rmtree(path)
            return is_left
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:  # not a folder, or not ours to remove
        return False


def _state(folder: str | os.PathLike[str]) -> dict[str, tuple[int, int, int]]:
    """Return what changes when one of the files that make up a model changes, by the files' paths."""
    found = {}
    for place in (Path(folder), Path(folder) / COMMIT):
        with contextlib.suppress(OSError, ValueError):
            for path in place.iterdir():
                if path.suffix in (".json", ".safetensors") or path.name == COMMIT:
                    status = path.stat()
                    found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found
