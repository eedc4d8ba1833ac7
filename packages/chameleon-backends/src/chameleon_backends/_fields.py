"""Dataclasses whose unknown and missing fields are a ``ConfigError``."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterable
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def rejects_unknown_fields(cls: type[T]) -> type[T]:
    """Make a dataclass raise ``ConfigError`` for a field that it doesn't have, with the closest, or that it lacks."""
    init = cls.__init__
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    required = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]

    @functools.wraps(init)
    def initialize(self: T, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in names:
                raise ConfigError(f"{cls.__name__} has no field {name!r}. {_hint(name, names)}")
        missing = [name for name in required if name not in given]
        if missing and not args:
            raise ConfigError(
                f"{cls.__name__} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing."
            )
        init(self, *args, **given)

    cls.__init__ = initialize  # type: ignore[assignment]
    return cls


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"The fields are {', '.join(known)}."
