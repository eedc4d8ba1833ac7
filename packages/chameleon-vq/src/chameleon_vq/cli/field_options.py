# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Options of a command that are the fields of options classes: their types, their ranges, their docstrings as help.

They are made when the command runs or shows its help, because the classes are in modules that import torch, as some of
the package's own do.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import msgspec
import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from .._config import Config

_KEY = f"{__name__}.given"
_KINDS = {int: "int", float: "float", str: "str", dict: "json"}
"""What the help calls the types, as typer does those of other options."""


@dataclass(frozen=True, slots=True)
class FieldGroup:
    """The fields of one class that are options."""

    owner: type[Config]
    """The class."""
    panel: str
    """The title above them in the help."""
    names: Collection[str] | None = None
    """The fields; None for all."""
    omitted: Collection[str] = ()
    """Fields that are no options."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """What the command takes where a field isn't given, in words, if that isn't the default of the class."""


class FieldCommand(TyperCommand):
    """A command that has an option for each field of its groups; a subclass says which those are.

    An option is checked as the field is. ``given`` returns those that were given.
    """

    groups: ClassVar[Callable[[], tuple[FieldGroup, ...]]]
    """Called without arguments where the options are needed."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command, and an option for each field."""
        made = self.__dict__.get("_of_fields")
        if made is None:
            made = self._of_fields = _made_options(type(self).groups())
        return [*super().get_params(ctx), *made]


def given(ctx: typer.Context, owner: type[Config]) -> dict[str, Any]:
    """Return the fields of a class that were given as options, checked."""
    return dict(ctx.meta.get(_KEY, {}).get(owner.__name__, {}))


def field_docs(owner: type[Config]) -> dict[str, str]:
    """Return the docstring of each field of a class, in one line; none where the source isn't installed."""
    docs: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        except (OSError, TypeError):
            continue
        body = getattr(tree, "body", [])
        for statement, after in itertools.pairwise(body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs


def _made_options(groups: tuple[FieldGroup, ...]) -> list[Any]:
    """Return the options of the fields, as typer makes them of a function's parameters."""
    parameters = [parameter for group in groups for parameter in _parameters(group)]

    def command() -> None: ...

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return list(typer.main.get_command(app).params)


def _parameters(group: FieldGroup) -> list[inspect.Parameter]:
    from .._config import fields_of

    docs = field_docs(group.owner)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(group, each, docs.get(each.name, "")),
        )
        for each in fields_of(group.owner)
        if each.name != "extras"
        and (group.names is None or each.name in group.names)
        and each.name not in group.omitted
    ]


def _annotation(group: FieldGroup, info: msgspec.structs.FieldInfo, doc: str) -> Any:
    flag = f"--{info.name.replace('_', '-')}"
    is_switch = _kinds(info.type) == [bool]
    if info.name in group.defaults:
        doc += f" Here by default {group.defaults[info.name]}."

    def check(ctx: typer.Context, value: Any) -> Any:
        from ..errors import ConfigError

        if value is not None:
            read = value if is_switch else _value(info, value)
            try:
                checked = group.owner._checked(info, read)
            except ConfigError as error:
                raise typer.BadParameter(str(error)) from error
            ctx.meta.setdefault(_KEY, {}).setdefault(group.owner.__name__, {})[info.name] = checked
        return value

    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=re.sub(r"``(.+?)``", r"\1", doc).replace("[", r"\["),
        metavar=None if is_switch else f"<{_type_name(info.type)}>",
        callback=check,
        expose_value=False,
        show_default=False,
        rich_help_panel=group.panel,
    )
    return Annotated[bool | None if is_switch else str | None, option]


def _value(info: msgspec.structs.FieldInfo, written: str) -> Any:
    """Return what a text means: JSON, numbers with commas between them, or the text itself."""
    from .._files import parse_json

    kinds = _kinds(info.type)
    if written == "none" and NoneType in kinds and not _choices(info.type):
        return None
    is_list = any(get_origin(kind) is tuple for kind in kinds)
    for text in (written, f"[{written}]") if is_list else (written,):
        try:
            value = parse_json(text, info.name, error=ValueError)
        except ValueError:
            continue
        # A name may look like a number.
        return written if isinstance(value, int | float) and kinds == [str] else value
    return written.split(",") if is_list else written


def _type_name(annotation: Any) -> str:
    if choices := _choices(annotation):
        return "|".join(choices)
    for kind in _kinds(annotation):
        if get_origin(kind) is tuple:
            return f"{_type_name(get_args(kind)[0])},…"
        if (name := _KINDS.get(get_origin(kind) or kind)) is not None:
            return name
    return "value"


def _choices(annotation: Any) -> list[str]:
    return [str(value) for kind in _kinds(annotation) if get_origin(kind) is Literal for value in get_args(kind)]


def _kinds(annotation: Any) -> list[Any]:
    """Return the types of a union, or the type that isn't one, without their ranges."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Union or origin is UnionType:
        return [kind for each in get_args(annotation) for kind in _kinds(each)]
    return [annotation]
