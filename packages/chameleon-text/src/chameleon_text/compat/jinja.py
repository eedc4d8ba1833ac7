"""Chat templates in Jinja that a folder or a caller has, rendered as ``transformers`` renders them.

The built-in template needs none of this: ``compat.chat`` writes the same in Python. Templates are untrusted code, so
they run in Jinja's sandbox and see nothing but plain values.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DocumentError, MissingPackageError

_CONTINUED = "\ue000continued here\ue001"
"""Marks the end of the message that is to be continued; private characters, which no text has."""


def render_jinja(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    continue_final_message: bool,
    variables: Mapping[str, Any],
) -> str:
    """Return the prompt that a template makes of a conversation.

    With ``continue_final_message`` it ends where the text of the last message ends. Raises ``MissingPackageError``
    without jinja2, and ``DocumentError`` for whatever goes wrong in the template.
    """
    plain = [dict(message) for message in _plain(messages)]
    if continue_final_message:
        _mark(plain)
    try:
        rendered: str = _compiled(template).render(
            messages=plain, **{name: _plain(each) for name, each in variables.items()}
        )
    except MissingPackageError:
        raise
    except Exception as error:  # a template may raise anything, by raise_exception() too
        raise DocumentError(f"the chat template can't render this conversation: {error}") from error
    if not continue_final_message:
        return rendered
    before, found, _ = rendered.rpartition(_CONTINUED)
    if not found:
        raise DocumentError("the chat template doesn't write the last message, so that it can't be continued.")
    return before


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    try:
        jinja2: Any = importlib.import_module("jinja2")
        sandbox: Any = importlib.import_module("jinja2.sandbox")
        ext: Any = importlib.import_module("jinja2.ext")
    except ImportError as error:
        raise MissingPackageError(
            "this chat template is written in Jinja, which needs jinja2: pip install 'jinja2>=3.1.6'. "
            "chat_template=None is the built-in one, which needs nothing."
        ) from error

    class Generation(ext.Extension):  # type: ignore[misc]
        """``{% generation %}`` marks what a model writes; here it is written as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.exceptions.TemplateError as error:
        raise DocumentError(f"the chat template isn't one in Jinja: {error}") from error


def _mark(messages: list[dict[str, Any]]) -> None:
    """Mark the end of the last message's text."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUED
        return
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += _CONTINUED
            return
    raise DocumentError("continue_final_message=True needs a last message with text, which it has none of.")


def _plain(value: Any) -> Any:
    """Return a value as plain JSON; what isn't becomes its type's name, since a template only asks if it's there."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise DocumentError(message)
