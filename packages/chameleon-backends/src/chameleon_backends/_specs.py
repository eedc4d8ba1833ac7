# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""What a plugin's hook returns: its specs, how they are checked, and how their import strings become callables."""

from __future__ import annotations

import functools
import importlib
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from .errors import BrokenPluginError
from .plugin_calls import described, plugin_call, said, wrong

P = ParamSpec("P")
R = TypeVar("R")
SpecT = TypeVar("SpecT", bound="PluginSpec")

IMPORT_STRING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""``"module:attribute"``, both of which may be dotted."""


def always_available() -> str | None:
    """Return None: the default of ``PluginSpec.unavailable``."""
    return None


def always_supported(request: Any) -> str | None:
    """Return None: the default of ``PluginSpec.unsupported``."""
    return None


class PluginSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook returns: the name of one thing and how to make it.

    A hook accepts any object with these fields, whatever its class; those with a default may be missing. A field that
    is called may be a ``"module:attribute"`` string, which is imported when it is first called.
    """

    name: str
    """What users ask for it by."""
    factory: Callable[..., Any] | str
    """Makes the object; each hook documents its arguments."""
    api_version: int
    """The ``HOOK_API_VERSION`` that the plugin was written for."""
    summary: str = ""
    """What it is, in a line for listings."""
    unavailable: Callable[[], str | None] | str = always_available
    """Returns a sentence why the plugin can't run on this machine, None where it can. It raises nothing."""
    unsupported: Callable[[Any], str | None] | str = always_supported
    """Returns a sentence why the plugin can't serve a request, None where it can. It raises nothing, and is asked only
    where ``unavailable`` returns None; each hook documents its requests."""
    owner: str = ""
    """What errors call it: its kind, name and distribution. The registry sets it."""

    def __repr__(self) -> str:
        about = f"{self.name!r}: {self.summary}" if self.summary else repr(self.name)
        return f"{type(self).__name__}({about})"

    def make(self, *args: Any, **options: Any) -> Any:
        """Make the object.

        Raises ``BrokenPluginError`` where the plugin can't run on this machine, and for whatever the factory raises
        that isn't an error of this toolkit.
        """
        reason = self.why_unavailable()
        if reason is not None:
            raise BrokenPluginError(f"{self.called} can't run on this machine: {reason.rstrip('.')}.")
        return self.call("factory", *args, **options)

    def why_unavailable(self) -> str | None:
        """Return why the plugin can't run on this machine, None where it can. Raises ``BrokenPluginError``."""
        return self._reason("unavailable")

    def why_unsupported(self, request: Any) -> str | None:
        """Return why the plugin can't serve a request on this machine, None where it can.

        Raises ``BrokenPluginError``.
        """
        reason = self.why_unavailable()
        return self._reason("unsupported", request) if reason is None else reason

    def call(self, field: str, *args: Any, **options: Any) -> Any:
        """Call one of the fields that are called, such as ``"factory"``.

        Raises ``BrokenPluginError``, with the plugin and its distribution, for whatever goes wrong in it. Errors of
        this toolkit's packages pass.
        """
        with plugin_call(self.called, f"calling its {field}"):
            return resolve(getattr(self, field))(*args, **options)

    def make_folder(self) -> Path:
        """Make the object, which is a folder. Raises ``BrokenPluginError`` where the factory returns anything else."""
        made = self.make()
        if not isinstance(made, (str, os.PathLike)) or not str(made):
            wrong(self.called, f"{described(made)} from factory; expected the path of a folder.")
        folder = Path(made)
        if not os.path.isdir(folder):
            wrong(self.called, f"{str(folder)!r} from factory, which isn't a folder.")
        return folder

    @property
    def called(self) -> str:
        """What errors call it, also where no registry has it."""
        return self.owner or f"the plugin {self.name!r}"

    def _reason(self, field: str, *request: Any) -> str | None:
        reason = self.call(field, *request)
        if reason is not None and not (isinstance(reason, str) and reason.strip()):
            found = "an empty str" if isinstance(reason, str) else described(reason)
            wrong(self.called, f"{found} from {field}; expected a sentence, or None where there is no reason.")
        return reason


class LazyCallable:
    """What an import string names, imported when it is first called. ``owner`` says in errors whose field it is."""

    def __init__(self, string: str, owner: str) -> None:
        self._string = string
        self._owner = owner

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Import it and call it. Raises ``BrokenPluginError`` where it can't be imported."""
        return self.load()(*args, **options)

    def __repr__(self) -> str:
        return f"LazyCallable({self._string!r})"

    def load(self) -> Callable[..., Any]:
        """Import it. Raises ``BrokenPluginError`` with the owner, the string and the cause where that fails."""
        module, _, attribute = self._string.partition(":")
        try:
            found = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        # Whatever else it raises, sys.exit() and panics of Rust too: the module is third-party code.
        except BaseException as error:
            raise BrokenPluginError(
                f"{self._owner} {self._string!r} can't be imported: {said(error).removesuffix('.')}."
            ) from error
        if not callable(found):
            raise BrokenPluginError(f"{self._owner} {self._string!r} is {found!r}; it must be a callable.")
        return found


def resolve(field: Callable[P, R] | str) -> Callable[P, R]:
    """Return the callable that a field of a spec is or names, imported now.

    Raises ``BrokenPluginError`` with the plugin and its distribution where the string can't be imported.
    """
    if isinstance(field, str):
        field = LazyCallable(field, "the import string")
    return field.load() if isinstance(field, LazyCallable) else field


def wrong_field(spec: Any, spec_type: type[PluginSpec], hook: str) -> str | None:
    """Return what is wrong with the first field that doesn't fit the spec type, None where all fit."""
    name = getattr(spec, "name", None)
    which = f"the spec {name!r}" if isinstance(name, str) and name else f"a spec of type {type(spec).__name__}"
    for field in _fields(spec_type):
        if not hasattr(spec, field.name) or field.name == "owner":
            if field.required:
                required = ", ".join(each.name for each in _fields(spec_type) if each.required)
                return f"{hook} returned {which} without {field.name}; {spec_type.__name__} requires {required}"
            continue
        value = getattr(spec, field.name)
        if not _fits(value, field.type) or (field.name == "name" and not value):
            expected = "a non-empty string" if field.name == "name" else _in_words(field.type)
            return f"{hook} returned {which} whose {field.name} is {value!r}; it must be {expected}"
    return None


def convert(spec: Any, spec_type: type[SpecT], plugin: str) -> SpecT:
    """Return a spec whose fields are right as one of the spec type, with its import strings as ``LazyCallable``.

    ``plugin`` becomes its owner, which says in errors whose it is.
    """
    values = {field.name: getattr(spec, field.name) for field in _fields(spec_type) if hasattr(spec, field.name)}
    lazy = {
        field.name: LazyCallable(values[field.name], f"{plugin} can't be used: its {field.name}")
        for field in _fields(spec_type)
        if _is_called(field.type) and isinstance(values.get(field.name), str)
    }
    if isinstance(spec, spec_type):
        return msgspec.structs.replace(spec, **lazy, owner=plugin)
    return spec_type(**{**values, **lazy, "owner": plugin})


@functools.cache
def _fields(spec_type: type[PluginSpec]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(spec_type)


def _is_called(hint: Any) -> bool:
    """Whether values of this type hint are called, and may be import strings."""
    return Callable in (typing.get_origin(each) for each in (hint, *typing.get_args(hint)))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a field with this type hint may have the value."""
    if value is None or _is_called(hint):
        is_import_string = isinstance(value, str) and IMPORT_STRING.fullmatch(value) is not None
        return callable(value) or is_import_string or (value is None and type(None) in typing.get_args(hint))
    if typing.get_origin(hint) is type:
        return isinstance(value, type) and issubclass(value, typing.get_args(hint))
    return type(value) is int if hint is int else isinstance(value, str) if hint is str else True


def _in_words(hint: Any) -> str:
    if _is_called(hint):
        words = "a callable or a string 'module:attribute'"
        return f"{words}, or None" if type(None) in typing.get_args(hint) else words
    if typing.get_origin(hint) is type:
        return f"a subclass of {typing.get_args(hint)[0].__name__}"
    return {int: "an integer", str: "a string"}.get(hint, str(hint))
