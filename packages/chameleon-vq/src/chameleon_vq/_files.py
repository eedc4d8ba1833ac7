# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Files: read them with suspicion, write them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from ._commits import finish_commit, is_save, scratch, sync
from .errors import FileAccessError, FileFormatError, MissingFileError

MAX_DEPTH = 64
"""How deep objects and arrays of JSON may be nested. The deepest file that is known has eight levels."""

_HINTS = {
    errno.ENOSPC: "Free some space and try again.",
    errno.EDQUOT: "Free some space and try again.",
    errno.EACCES: "Check the permissions, or choose another place.",
    errno.EPERM: "Check the permissions, or choose another place.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EISDIR: "Expected a file.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def parse_json(
    text: str | bytes,
    what: str,
    *,
    error: type[Exception] = FileFormatError,
    finite: bool = True,
    surrogates: bool = False,
    an_object: bool = False,
) -> Any:
    """Return the value of a JSON text; ``what`` names it in errors.

    A byte order mark is skipped, and of the members of an object with one name the last counts, as in other readers.
    Raises ``error`` for anything that isn't JSON in UTF-8: NaN, infinities and numbers beyond the range of floats
    (unless ``finite`` is False), integers of thousands of digits, halves of surrogate pairs (unless ``surrogates`` lets
    them stand for bytes in names of files) and values nested deeper than ``MAX_DEPTH`` are none; where ``an_object`` is
    True, anything but an object, too. The message says where the fault is and quotes nothing of the text.
    """
    try:
        decoded = (text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text).removeprefix("\ufeff")
        value = json.loads(decoded, **(_ONLY_FINITE if finite else {}))
        refused = an_object and not isinstance(value, dict)
        if not refused:
            check_depth(value)
        if not surrogates and ("\\ud" in decoded or "\\uD" in decoded or isinstance(text, str)):
            json.dumps(value, ensure_ascii=False).encode()  # halves of surrogate pairs have no UTF-8
    except UnicodeDecodeError as fault:
        raise error(f"{what} is not valid JSON: byte {fault.start:,} of it isn't UTF-8. Save it as UTF-8.") from fault
    except UnicodeEncodeError as fault:
        raise error(f"{what} is not valid JSON: it has half of a surrogate pair, which is not a character.") from fault
    except json.JSONDecodeError as fault:
        raise error(f"{what} is not valid JSON: {fault}.") from fault
    except RecursionError as fault:
        raise error(f"{what} nests objects and arrays deeper than {MAX_DEPTH} levels.") from fault
    except (AttributeError, TypeError) as fault:
        raise error(f"{what} is a {type(text).__name__}, expected JSON text.") from fault
    except ValueError as fault:  # an integer of thousands of digits, NaN, infinity
        raise error(f"{what} is not valid JSON: it has a number that is out of range.") from fault
    if refused:
        raise error(f"{what} holds a JSON {type(value).__name__}, expected an object.")
    return value


def read_json(path: str | os.PathLike[str], *, finite: bool = True) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises ``MissingFileError``, ``FileAccessError`` where the system doesn't let it be read, and ``FileFormatError``
    where it isn't a JSON object; ``finite`` is that of ``parse_json``.
    """
    data: dict[str, Any] = parse_json(read_bytes(path), str(path), finite=finite, an_object=True)
    return data


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file. Raises ``MissingFileError`` and ``FileAccessError``."""
    check_is_file(path)
    with reading(path):
        return Path(path).read_bytes()


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raise ``MissingFileError`` or ``FileAccessError`` where ``path`` isn't a file that can be opened without waiting.

    Opening a pipe waits for a writer, and some devices never end.
    """
    try:
        with reading(path):
            kind = Path(path).stat().st_mode
    except (TypeError, ValueError) as error:  # not a path at all, or one with a null character
        raise MissingFileError(f"{path!r} is not the path of a file: {error}.") from error
    if stat.S_ISDIR(kind):
        raise FileAccessError(f"{path} is a folder, expected a file.")
    if not stat.S_ISREG(kind):
        raise FileAccessError(f"{path} is a pipe, a socket or a device, expected a file.")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``MissingFileError`` or ``FileAccessError`` for what the system raises while ``path`` is read."""
    try:
        yield
    except (MissingFileError, FileAccessError):
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} doesn't exist. Pass the path of a file.") from error
    except (OSError, UnicodeEncodeError) as error:
        raise _refused(path, "read", error) from error


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``FileAccessError`` for what the system raises while ``path`` is written."""
    if "\0" in os.fspath(path):
        raise FileAccessError(f"{os.fspath(path)!r} can't be written: a null character. Choose another path.")
    try:
        yield
    except FileAccessError:
        raise
    except (OSError, UnicodeEncodeError) as error:
        target = Path(path).parent if is_save(Path(path)) else path
        raise _refused(target, "written", error) from error


def check_depth(value: Any) -> None:
    """Raise ``RecursionError`` where containers are nested deeper than ``MAX_DEPTH``, or hold themselves."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        members = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [member for member in members if isinstance(member, (dict, list))]
    raise RecursionError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path, whose file takes the place of ``path`` when the block ends well and it is on the disk.

    When the block raises, the temporary file is removed and what was at ``path`` stays as it was. What a killed process
    left is removed by the next that writes the same file. Within a commit, ``path`` itself: nobody reads it yet.
    """
    target = Path(path)
    folder = target.parent
    if is_save(folder):
        yield target
        return
    folder.mkdir(parents=True, exist_ok=True)
    finish_commit(folder)
    with scratch(folder, target.name) as beside:
        temporary = beside / target.name
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
        sync(temporary)
        os.replace(temporary, target)
        sync(folder)


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, replacing the file only once it is whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _refused(path: str | os.PathLike[str], what: str, error: Exception) -> FileAccessError:
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    hint = _HINTS.get(getattr(error, "errno", None) or 0, "Choose another path.")
    return FileAccessError(f"{path} can't be {what}: {reason}. {hint}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(digits)
    return value


_ONLY_FINITE: Mapping[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _finite}
