"""JSON from outside: one reader that raises nothing but this package's errors, whatever the bytes are."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from .errors import ChameleonTextError, FileAccessError, FileFormatError, MissingFileError

MAX_DEPTH = 64
"""How deep objects and arrays may be nested. The deepest tokenizer file that is known has eight levels."""


def parse_json(text: str | bytes, what: str, *, error: type[ChameleonTextError] = FileFormatError) -> Any:
    """Return the value of a JSON text; ``what`` names it in errors.

    A byte order mark is skipped. Raises ``error`` for anything that isn't JSON in UTF-8: NaN and infinities, integers
    of thousands of digits, halves of surrogate pairs and values nested deeper than ``MAX_DEPTH`` are none. The message
    says where the fault is and quotes nothing of the text.
    """
    try:
        decoded = (text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text).removeprefix("\ufeff")
        value = json.loads(decoded, parse_constant=_refuse_constant)
        check_depth(value)
        if "\\ud" in decoded or "\\uD" in decoded or isinstance(text, str):
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
    return value


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises ``MissingFileError``, ``FileAccessError`` where the system doesn't let it be read, and ``FileFormatError``
    where it isn't a JSON object.
    """
    try:
        path = Path(path)
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            # Opening a pipe waits for a writer, and some devices never end.
            raise FileAccessError(f"{path} is a pipe, a socket or a device, expected a file.")
        data = path.read_bytes()
    except FileAccessError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} doesn't exist. Pass the path of a file.") from error
    except OSError as error:
        raise FileAccessError(
            f"{path} can't be read: {error.strerror or error}. Check the path and its access rights."
        ) from error
    except (TypeError, ValueError) as error:  # not a path at all, or one with a null character
        raise MissingFileError(f"{path!r} is not the path of a file: {error}.") from error
    value = parse_json(data, str(path))
    if not isinstance(value, dict):
        raise FileFormatError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``FileAccessError`` for what the system raises while a file is written in the block."""
    try:
        yield
    except OSError as error:
        raise FileAccessError(
            f"{os.fspath(path)} can't be written: {error.strerror or error}. Check the path, its access rights and the "
            "free space."
        ) from error


def check_depth(value: Any) -> None:
    """Raise ``RecursionError`` where containers are nested deeper than ``MAX_DEPTH``, or hold themselves."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += [member for member in each.values() if isinstance(member, (dict, list))]
            elif isinstance(each, list):
                inner += [member for member in each if isinstance(member, (dict, list))]
        if not inner:
            return
        level = inner
    raise RecursionError


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
