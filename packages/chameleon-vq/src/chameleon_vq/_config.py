"""The base of configuration classes: frozen, checked field by field, strict in Python and tolerant of published files.

This module is the same file in every package that has configurations; a test holds the copies identical.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

import msgspec

from .errors import ConfigError

C = TypeVar("C", bound="Config")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen configuration.

    frozen: a config that changes after the model was built would describe another model.
    kw_only: fields are named where they are set, so that a new one never shifts an old one.

    Every field is checked against its annotation, ranges included (``Annotated[int, msgspec.Meta(ge=1)]``), whenever
    an object is made; a subclass adds checks across fields in ``check``. ``extras`` holds what a published file had
    beyond the fields; it is written back as it was.
    """

    extras: dict[str, Any] = {}

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names under which published files give a field."""
    known_extras: ClassVar[frozenset[str]] = frozenset()
    """Keys that published files are expected to have beyond the fields, kept without a word."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            try:
                value = msgspec.convert(getattr(self, field.name), field.type)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"{type(self).__name__}.{field.name}: {error}{_choices(field.type)}; "
                    f"got {getattr(self, field.name)!r}."
                ) from error
            msgspec.structs.force_setattr(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise ``ConfigError`` where fields contradict each other."""

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any], *, source: str = "") -> C:
        """Read a published file's mapping: aliases resolved, extras kept and reported once.

        ``source`` names the file in errors and in the report.
        """
        names = {field.name for field in msgspec.structs.fields(cls)} - {"extras"}
        fields: dict[str, Any] = {}
        extras: dict[str, Any] = {}
        for key, value in data.items():
            name = cls.aliases.get(key, key)
            if name not in names:
                extras[key] = value
            elif name in fields and fields[name] != value:
                raise ConfigError(f"{source or cls.__name__}: {key!r} and {name!r} are the same field and differ.")
            else:
                fields[name] = value
        unknown = sorted(set(extras) - cls.known_extras)
        if unknown:
            warnings.warn(
                f"{source or cls.__name__}: kept without using {_with_hints(unknown, names)}.",
                UserWarning,
                stacklevel=2,
            )
        try:
            return cls(**fields, extras=extras)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}" if source else str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: the fields, and the extras that the file had."""
        fields = {
            field.name: msgspec.to_builtins(getattr(self, field.name))
            for field in msgspec.structs.fields(self)
            if field.name != "extras"
        }
        return {**self.extras, **fields}

    def replace(self: C, **changes: Any) -> C:
        """A copy with some fields changed, checked again."""
        return msgspec.structs.replace(self, **changes)


def _choices(annotation: Any) -> str:
    # msgspec says that a value isn't one of a Literal's, but not what they are.
    return f", allowed: {list(get_args(annotation))}" if get_origin(annotation) is Literal else ""


def _with_hints(unknown: list[str], names: set[str]) -> str:
    parts = []
    for key in unknown:
        close = difflib.get_close_matches(key, names, n=1)
        parts.append(f"{key!r} (did you mean {close[0]!r}?)" if close else repr(key))
    return ", ".join(parts)
