# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The base of configuration classes: frozen, checked field by field, strict in Python, tolerant of published files."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from .errors import ConfigError

C = TypeVar("C", bound="Config")
T = TypeVar("T")

_LINE = 100
"""The longest repr of a configuration that stays on one line, in characters."""
_VALUE = 80
"""The longest repr of a field's value that a configuration's repr contains, in characters."""


@functools.cache
def fields_of(cls: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a class. msgspec reads its annotations anew in each call, which takes a millisecond."""
    return msgspec.structs.fields(cls)


class ConfigMeta(msgspec.StructMeta):
    """Makes an unknown field name a ``ConfigError`` that names the closest field, in place of a ``TypeError``.

    A metaclass, because a ``msgspec.Struct`` is made without an ``__init__`` that could be overridden. Nothing is
    checked before construction fails, so that construction stays fast.
    """

    def __call__(cls: type[T], *args: Any, **fields: Any) -> T:  # noqa: N805
        """Make a configuration from its fields."""
        if args:
            first = next(name for name in cls.__struct_fields__ if name != "extras")  # type: ignore[attr-defined]
            raise ConfigError(f"{cls.__name__} takes its fields by name, such as {cls.__name__}({first}=...).")
        fields = cls._understood(fields)  # type: ignore[attr-defined]
        try:
            made: T = msgspec.StructMeta.__call__(cls, *args, **fields)
        except TypeError as error:
            raise unknown_fields(cls.__name__, fields, cls.__struct_fields__, cls.elsewhere) or error from None  # type: ignore[attr-defined]
        return made


class Config(msgspec.Struct, frozen=True, kw_only=True, metaclass=ConfigMeta):
    """A frozen configuration.

    frozen: a config that changes after the model was built would describe another model.
    kw_only: fields are named where they are set, so that a new one never shifts an old one.

    Every field is checked against its annotation, ranges included (``Annotated[int, msgspec.Meta(ge=1)]``), whenever
    an object is made; a subclass adds checks across fields in ``check``. The repr has the fields that differ from
    their defaults.
    """

    extras: dict[str, Any] = {}
    """Entries of a published file beyond the fields, by name, written back as they were; {} by default."""

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names under which published files give a field."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Names that other libraries have for what is done here in another way, and that way, as a clause of an error."""
    known_extras: ClassVar[frozenset[str]] = frozenset()
    """Entries that published files are expected to have beyond the fields, kept without a warning."""
    meaningful_nulls: ClassVar[frozenset[str]] = frozenset()
    """Fields whose null isn't the default, though their type has no None: they follow from another field."""

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            msgspec.structs.force_setattr(self, field.name, self._checked(field, getattr(self, field.name)))
        self.check()

    @classmethod
    def _understood(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a construction as fields; a subclass takes other names than those of fields."""
        return fields

    @classmethod
    def _checked(cls, field: msgspec.structs.FieldInfo, given: Any) -> Any:
        """Return a value for a field, converted to its type. Raises ``ConfigError`` where that is impossible."""
        try:
            value = msgspec.convert(given, field.type)
            _check_texts(value)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{cls.__name__}.{field.name}: {error}{_choices(field.type)}; got {shown(given)}."
                f"{_suggestion(given, field.type)}"
            ) from error
        except UnicodeEncodeError as error:  # of msgspec, too, which quotes texts in its errors
            raise ConfigError(
                f"{cls.__name__}.{field.name} has half of a surrogate pair, which is not a character; "
                f"got {shown(given)}."
            ) from error
        except RecursionError as error:
            raise ConfigError(f"{cls.__name__}.{field.name} nests collections too deep, or one in itself.") from error
        return value

    def check(self) -> None:
        """Raise ``ConfigError`` where fields contradict each other."""

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any], *, source: str = "") -> C:
        """Read a published file's mapping: resolve aliases, keep unknown entries and warn of them once.

        null and "auto" mean the default where a field has no such value, and 32.0 means 32. ``source`` names the file
        in errors and in the warning.
        """
        names = {field.name for field in fields_of(cls)} - {"extras"}
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
        fields = _as_meant(cls, fields)
        unknown = sorted(name for name, value in extras.items() if not cls._is_known(name, value))
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

    @classmethod
    def _is_known(cls, name: str, value: Any) -> bool:
        """Return whether a published file is expected to have an entry beyond the fields, so that nothing is said."""
        return name in cls.known_extras

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping: the fields, and the extras of the file that it was read from."""
        fields = {
            field.name: msgspec.to_builtins(getattr(self, field.name))
            for field in fields_of(type(self))
            if field.name != "extras"
        }
        return {**self.extras, **fields}

    def replace(self: C, **changes: Any) -> C:
        """Return a copy with some fields changed, checked again."""
        error = unknown_fields(type(self).__name__, changes, self.__struct_fields__, self.elsewhere)
        if error is not None:
            raise error
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={self._shown(field.name, getattr(self, field.name))}"
            for field in fields_of(type(self))
            if getattr(self, field.name) != _default(field)
        ]
        line = f"{type(self).__name__}({', '.join(shown)})"
        if len(line) <= _LINE:
            return line
        return f"{type(self).__name__}(\n" + "".join(f"    {each},\n" for each in shown) + ")"

    def _shown(self, name: str, value: Any) -> str:
        """Return a field's value as the repr shows it, a large collection by its size."""
        text = repr(value)
        if len(text) <= _VALUE or not isinstance(value, list | tuple | dict):
            return text
        return f"<{len(value)} entries>"


def rejects_unknown_fields(cls: type[T]) -> type[T]:
    """Make an unknown field name of a dataclass a ``ConfigError``, as it is for a ``Config``, in an assignment too."""
    init, assign = cls.__init__, cls.__setattr__

    @functools.wraps(init)
    def initialize(self: T, *args: Any, **fields: Any) -> None:
        error = unknown_fields(cls.__name__, fields, cls.__dataclass_fields__)  # type: ignore[attr-defined]
        if error is not None:
            raise error
        init(self, *args, **fields)

    @functools.wraps(assign)
    def set_field(self: T, name: str, value: Any) -> None:
        error = unknown_fields(cls.__name__, (name,), cls.__dataclass_fields__)  # type: ignore[attr-defined]
        if error is not None:
            raise error
        assign(self, name, value)

    cls.__init__ = initialize  # type: ignore[assignment]
    cls.__setattr__ = set_field  # type: ignore[assignment]
    return cls


def unknown_fields(
    owner: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> ConfigError | None:
    """Return the error where ``given`` has names that aren't fields of ``owner``.

    It says what replaces a name in ``elsewhere``, and otherwise which names are the closest.
    """
    names = sorted(set(known) - {"extras"})
    unknown = [name for name in given if name not in names and name != "extras"]
    if not unknown:
        return None
    for name in unknown:
        if name in elsewhere:
            return ConfigError(f"{owner} has no field {name!r}: {elsewhere[name]}")
    found = f"{owner} has no field{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}."
    close = [match for name in unknown for match in difflib.get_close_matches(name, names, n=1)]
    if close:
        return ConfigError(f"{found} Did you mean {' and '.join(map(repr, dict.fromkeys(close)))}?")
    return ConfigError(f"{found} The fields are {', '.join(names)}.")


def shown(value: object) -> str:
    """Return the beginning of a value's repr, whatever the value is."""
    try:
        return f"{value!r:.200}"
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a collection with one
        return f"a {type(value).__name__} too large to show"


def whole(value: Any) -> Any:
    """Return a number, or a list of numbers, with whole ones as integers: 32.0 is 32. Other values are themselves."""
    if isinstance(value, list | tuple):
        return type(value)(map(whole, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fits(annotation: Any, value: Any) -> bool:
    """Return whether a value is one of a type."""
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _as_meant(cls: type[Config], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a file without those whose null or "auto" means the default, and 32.0 as 32."""
    types = {field.name: field.type for field in fields_of(cls)}
    meant: dict[str, Any] = {}
    for name, given in fields.items():
        value = given
        if isinstance(value, float | list) and not fits(types[name], value) and fits(types[name], whole(value)):
            value = whole(value)
        if (value is None or value == "auto") and not fits(types[name], value):
            if name not in cls.meaningful_nulls:
                continue
            value = None
        meant[name] = value
    return meant


def _check_texts(value: Any) -> None:
    """Raise ``UnicodeEncodeError`` where a text in a value can't be written as UTF-8."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, Mapping):
        _check_texts(list(value))
        _check_texts(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        "".join([each for each in value if isinstance(each, str)]).encode()  # a vocabulary has many
        for each in value:
            if not isinstance(each, str | int | float):
                _check_texts(each)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _choices(annotation: Any) -> str:
    # msgspec says that a value isn't one of a Literal's, but not what they are.
    choices = _literals(annotation)
    if not choices:
        return ""
    others = [each for each in _members(annotation) if get_origin(each) is not Literal]
    names = ["None" if each is NoneType else getattr(each, "__name__", str(each)) for each in others]
    return f", allowed: {' or '.join([str(choices), *names])}"


def _suggestion(given: Any, annotation: Any) -> str:
    close = difflib.get_close_matches(shown(given).strip("'"), map(str, _literals(annotation)), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _literals(annotation: Any) -> list[Any]:
    """Return the values of the Literals that an annotation is or has in a union."""
    return [value for each in _members(annotation) if get_origin(each) is Literal for value in get_args(each)]


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, and of unions in it; a type that isn't one is its only member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin is Union or origin is UnionType:
        for each in get_args(annotation):
            yield from _members(each)
    else:
        yield annotation


def _with_hints(unknown: list[str], names: set[str]) -> str:
    parts = []
    for key in unknown:
        close = difflib.get_close_matches(key, names, n=1)
        parts.append(f"{key!r} (did you mean {close[0]!r}?)" if close else repr(key))
    return ", ".join(parts)
