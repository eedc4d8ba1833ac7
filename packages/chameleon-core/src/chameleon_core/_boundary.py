"""Core's boundary: what a sibling package raises leaves core's entry points as a ``ChameleonCoreError``, too.

A sibling's error is replaced by one of a class that derives from the sibling's own class and from core's class of the
same name, or from ``ChameleonCoreError``. So ``except ChameleonCoreError`` catches everything that the toolkit raises,
and ``except chameleon_vq.ImageError`` or ``except ValueError`` still catch what they did. The original is the cause.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

from . import errors
from .errors import ChameleonCoreError

F = TypeVar("F", bound=Callable[..., Any])

_BASES = frozenset(
    {"chameleon_vq.ChameleonVQError", "chameleon_text.ChameleonTextError", "chameleon_backends.ChameleonBackendsError"}
)
"""The bases of the siblings' errors, by name: a sibling that isn't imported has raised nothing."""

# What built-in errors keep outside of their dictionaries.
_SLOTS = ("name", "path", "filename", "filename2")


def translates_errors(function: F) -> F:
    """Make a function raise what a sibling raises in it as a ``ChameleonCoreError``; so does a generator it returns."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            _reraise(error)
            raise
        return _translated_items(result) if isinstance(result, Generator) else result

    return cast(F, wrapper)


def _translated_items(items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        return (yield from items)
    except Exception as error:
        _reraise(error)
        raise


def _reraise(error: Exception) -> None:
    """Raise a sibling's error as one of core's; return where it isn't a sibling's, or is core's already."""
    if _is_siblings(type(error)) and not isinstance(error, ChameleonCoreError):
        kind = _translation(type(error))  # type: ignore[arg-type]  # mypy takes the class for unhashable
        raise _made(kind, error.args, _attributes(error)) from error


def _is_siblings(kind: type[Exception]) -> bool:
    """Return whether an error derives from a sibling's base, as a plugin's own class may."""
    return any(f"{base.__module__.partition('.')[0]}.{base.__name__}" in _BASES for base in kind.__mro__)


@functools.cache
def _translation(kind: type[Any]) -> type[Exception]:
    """Return the class that stands for a sibling's class of error; it is made once."""
    is_siblings_own = kind.__module__.partition(".")[0] in {base.partition(".")[0] for base in _BASES}
    own: type[Exception] = getattr(errors, kind.__name__, ChameleonCoreError) if is_siblings_own else ChameleonCoreError
    if issubclass(own, kind):
        return own
    namespace = {
        "__doc__": f"``{kind.__module__}.{kind.__qualname__}``, raised within an entry point of chameleon-core.",
        "__module__": errors.__name__,
        "__reduce__": _reduce,
        "_original": kind,
    }
    return type(kind.__name__, (own, kind), namespace)


def _made(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    """Return an error with its message and attributes; its ``__init__`` may want other arguments, and isn't called."""
    error = kind.__new__(kind, *args)
    if isinstance(error, ImportError):
        ImportError.__init__(error, *args)
    error.args = args
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def _attributes(error: Exception) -> dict[str, Any]:
    built_in = {name: getattr(error, name, None) for name in _SLOTS} if isinstance(error, ImportError | OSError) else {}
    return {**{name: value for name, value in built_in.items() if value is not None}, **error.__dict__}


def _reduce(self: Any) -> tuple[Any, ...]:
    # The class isn't an attribute of a module, so the sibling's is pickled in its place.
    return _unpickled, (self._original, self.args, _attributes(self))


def _unpickled(original: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    return _made(_translation(original), args, attributes)  # type: ignore[arg-type]
