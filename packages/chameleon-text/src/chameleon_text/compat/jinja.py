"""Chat templates in Jinja that a folder or a caller has, rendered as ``transformers`` renders them.

The built-in template needs none of this: ``compat.chat`` writes the same in Python. Templates are untrusted code, so
they run in Jinja's sandbox and see nothing but plain values.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib
import importlib.metadata
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ConfigError, DocumentError, MissingPackageError

_MINIMUM = (3, 1, 6)  # older sandboxes have known escapes
_SECRET = secrets.token_hex(8)
# No text has them, and a template that writes a list of parts or JSON leaves them as they are.
_CONTINUED, _BEGIN, _END = (f"[{name} {_SECRET}]" for name in ("continued", "answer", "end"))
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""The fields of a message that have its reasoning, the one that templates read first."""


class JinjaPrompt(msgspec.Struct, frozen=True):
    """What a template in Jinja made of a conversation."""

    text: str
    """The prompt."""
    answers: tuple[tuple[int, int], ...]
    """The characters between ``{% generation %}`` and ``{% endgeneration %}``, the first and the one after the last."""


def render_jinja(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    continue_final_message: bool | str,
    variables: Mapping[str, Any],
    mark_answers: bool = False,
) -> JinjaPrompt:
    """Return the prompt that a template makes of a conversation, with the places of answers if ``mark_answers``.

    With ``continue_final_message`` it ends where the text of the last message ends, or the field of it that has this
    name. Raises ``MissingPackageError`` without jinja2, and ``DocumentError`` for whatever goes wrong in the template.
    """
    try:
        plain = [_with_reasoning(message) for message in _plain(list(messages))]
        values = {name: _plain(each) for name, each in variables.items()}
    except Exception as error:  # what holds itself, or is of a class of the caller's, may raise anything
        raise DocumentError(f"messages and variables must be plain values: {error}") from error
    if continue_final_message:
        _mark(plain, "content" if continue_final_message is True else continue_final_message)
    try:
        rendered: str = _compiled(template, mark_answers)[0].render(messages=plain, **values)
    except MissingPackageError:
        raise
    except Exception as error:  # a template may raise anything, by raise_exception() too
        raise DocumentError(f"the chat template can't render this conversation: {error}") from error
    if continue_final_message:
        before, found, after = rendered.rpartition(_CONTINUED)
        if not found:
            raise DocumentError("the chat template doesn't write the last message, so that it can't be continued.")
        # The mark ends with a space; a template that trimmed it trims messages. It may be written more than once.
        before = before if after.startswith(" ") else before.rstrip()
        rendered = before.replace(f"{_CONTINUED} ", "").replace(_CONTINUED, "")
    return _without_marks(rendered) if mark_answers else JinjaPrompt(rendered, ())


def check_variables(template: str, names: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a variable that a template never reads, since it would do nothing."""
    read = _compiled(template, False)[1]
    for name in names:
        if name not in read:
            raise ConfigError(
                f"the chat template has no variable {name!r}, so that it would do nothing. Leave it out; the "
                f"template's variables are {', '.join(sorted(read)) or 'none'}."
            )


def marks_answers(template: str) -> bool:
    """Whether a template marks what a model writes, by ``{% generation %}``."""
    return _compiled(template, True)[2]


@functools.lru_cache(maxsize=16)
def _compiled(template: str, mark_answers: bool) -> tuple[Any, frozenset[str], bool]:
    """Return a template, the variables that it reads, and whether it marks answers."""
    jinja2, sandbox, ext, nodes, meta = _modules()
    Extension: Any = ext.Extension

    class Generation(Extension):  # type: ignore[misc]
        """``{% generation %}`` marks what a model writes, where that is asked for, since filters see the marks."""

        tags = {"generation"}
        used = False

        def parse(self, parser: Any) -> Any:
            Generation.used = True
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            begin, end = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (_BEGIN, _END))
            return nodes.Scope([begin, *body, end] if mark_answers else body, lineno=line)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        read = meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals)
        return environment.from_string(template), frozenset(read), Generation.used
    except (jinja2.exceptions.TemplateError, RecursionError) as error:
        raise DocumentError(f"the chat template isn't one in Jinja: {error}") from error


def _modules() -> list[Any]:
    """Return the modules of jinja2. Raises ``MissingPackageError`` where it is missing or too old."""
    advice = (
        "pip install 'jinja2>=3.1.6'. chat_template=None is the built-in one, which needs nothing, if the tokenizer "
        "has no other."
    )
    try:
        names = ("jinja2", "jinja2.sandbox", "jinja2.ext", "jinja2.nodes", "jinja2.meta")
        modules: list[Any] = [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise MissingPackageError(f"this chat template is written in Jinja, which needs jinja2: {advice}") from error
    version = importlib.metadata.version("jinja2")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) < _MINIMUM:
        raise MissingPackageError(
            f"jinja2 is {version}, from whose sandbox templates can escape; a newer one is needed: {advice}"
        )
    return modules


def _mark(messages: list[dict[str, Any]], field: str) -> None:
    """Mark the end of the last message's text."""
    content = messages[-1].get(field) if messages else None
    mark = f"{_CONTINUED} "
    if isinstance(content, str):
        same = [name for name in _REASONING if messages[-1].get(name) == content] if field in _REASONING else [field]
        for name in same:
            messages[-1][name] = content + mark
        return
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += mark
            return
    what = "text" if field == "content" else f"a text {field!r:.80}"
    raise DocumentError(f"continue_final_message needs a last message with {what}, which it has none of.")


def _without_marks(rendered: str) -> JinjaPrompt:
    """Return a prompt without the marks of answers, and their places."""
    text, answers, begin = "", [], None
    for number, part in enumerate(rendered.split(_BEGIN)):
        begin = len(text) if number else None
        inside, ended, after = part.partition(_END)
        text += inside
        if begin is not None and len(text) > begin:
            answers.append((begin, len(text)))
        text += after.replace(_END, "") if ended else ""
    return JinjaPrompt(text, tuple(answers))


def _with_reasoning(message: Any) -> dict[str, Any]:
    """Return a message with its reasoning under the names that templates read."""
    found = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return dict(message) if found is None else {"thinking": found, **message, "reasoning_content": found}


def _plain(value: Any) -> Any:
    """Return a value as plain JSON; what isn't becomes its type's name, since a template only asks if it's there."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # an enumeration, which may have methods
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of NumPy
        return _plain(value.item())
    if callable(dump := getattr(value, "model_dump", None)):  # of Pydantic
        return _plain(dump())
    return f"<{type(value).__name__}>"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise DocumentError(message)
