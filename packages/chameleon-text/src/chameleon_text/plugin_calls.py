# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Calls of plugins: whatever goes wrong in one is an error that names the plugin and its distribution."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from .errors import BrokenPluginError

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@contextlib.contextmanager
def plugin_call(owner: str, doing: str) -> Iterator[None]:
    """Raise ``BrokenPluginError`` for what a plugin raises in the block, ``sys.exit()`` and panics of Rust included.

    Errors of this toolkit's packages pass, and so does a lack of memory, with a note of where they came from; so does
    an interruption. What the plugin prints goes to stderr, because stdout is for what a command makes.
    """
    try:
        with printing_to_stderr():
            yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if is_ours(type(error)) or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            error.add_note(f"Raised by {owner}, {doing}.")
            raise
        reason = said(error)
        period = "" if reason.endswith((".", "?", "!")) else "."
        raise BrokenPluginError(f"{owner} failed, {doing}: {reason}{period}") from error


class _Redirection:
    """Whether stdout is replaced, by how many threads, and by what it was."""

    lock = threading.Lock()
    depth = 0
    stdout: Any = None


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Send what is printed in the block to stderr. Blocks may overlap in several threads, unlike contextlib's own."""
    with _Redirection.lock:
        # Another copy of this module may have replaced it already, and puts it back itself.
        if _Redirection.depth == 0 and sys.stdout is not sys.stderr:
            _Redirection.stdout, sys.stdout = sys.stdout, sys.stderr
        _Redirection.depth += 1
    try:
        yield
    finally:
        with _Redirection.lock:
            _Redirection.depth -= 1
            if _Redirection.depth == 0 and _Redirection.stdout is not None:
                sys.stdout, _Redirection.stdout = _Redirection.stdout, None


def wrong(owner: str, what: str) -> NoReturn:
    """Raise ``BrokenPluginError`` for a wrong return value of a plugin."""
    raise BrokenPluginError(f"{owner} returned {what}")


def described(value: object) -> str:
    """Return a value for an error: its type, and the value itself only where it is short."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    article = "an" if type(value).__name__[:1].lower() in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


def said(error: BaseException) -> str:
    """Return the type and the message of any exception, also of one whose own ``str`` fails."""
    try:
        message = str(error)
    except Exception as failure:
        message = f"its message can't be shown: {type(failure).__name__}"
    return f"{type(error).__name__}: {message}".rstrip(": ")


def is_ours(kind: type[BaseException]) -> bool:
    """Return whether a class of errors derives from one of the toolkit's."""
    return any(base.__name__.startswith("Chameleon") and base.__name__.endswith("Error") for base in kind.__mro__)


def unexpected_keyword(error: BaseException | None) -> str | None:
    """Return the keyword that a call was refused for, as Python words it; None for any other error."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    return found and found[1]
