"""Conversations as prompts: what ``apply_chat_template`` writes, in Python and as a template in Jinja.

Both are the format of ``templates.Chat``: ``<s>``, then the turns, a user's ended by the separator and an assistant's
by ``</s>``. The separator after the last turn is left out, because the processor's call appends it, here and in
``transformers``. A system message is the beginning of the user's turn that follows it, before an empty line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import DocumentError, ImageCountError
from ..pictures import IMAGE_FIELDS, image_of_fields
from ..segments import Image, Segment, Special, Text
from ..templates import ASSISTANT, SYSTEM, USER, Chat, Piece, Turn
from ..vocabulary import SEPARATOR

CHAT_TEMPLATE = """\
{%- macro written(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- elif part['type'] in ['image', 'image_url'] -%}
                {{- image_token -}}
            {%- else -%}
                {{- raise_exception('a part has the type ' ~ part['type'] ~ ', expected text or image.') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- if loop.last or loop.nextitem['role'] != 'user' -%}
            {{- raise_exception('a system message is put before the user message that follows it, and none does.') -}}
        {%- endif -%}
        {{- written(message['content']) -}}
        {{- '\\n\\n' -}}
    {%- elif message['role'] == 'user' -%}
        {{- written(message['content']) -}}
        {%- if not loop.last -%}
            {{- sep_token -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {%- generation -%}
            {{- written(message['content']) -}}
            {{- eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('there is no role ' ~ message['role'] ~ ', only system, user and assistant.') -}}
    {%- endif -%}
{%- endfor -%}
"""
"""What is written as ``chat_template.jinja`` of a model's folder."""


class Conversation(msgspec.Struct, frozen=True):
    """A conversation as a prompt."""

    pieces: list[Piece]
    """Its segments after ``<s>``, pictures as placeholders, without the separator after the last turn."""
    pictures: list[Any]
    """The pictures that its parts have, one for each placeholder; None for those that are given beside them."""


def conversations_of(conversation: Any) -> tuple[list[list[Mapping[str, Any]]], bool]:
    """Return conversations as lists of messages, and whether several were given.

    Fields that are null are left out. Raises ``DocumentError`` for anything but messages.
    """
    given: Any = getattr(conversation, "messages", conversation)
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence) or not given:
        raise DocumentError(f"the conversation is a {type(given).__name__}, expected a list of at least one message.")
    several = not isinstance(given[0], Mapping)
    chats: list[Any] = [getattr(each, "messages", each) for each in given] if several else [given]
    for chat in chats:
        if not isinstance(chat, (list, tuple)) or not chat or not all(isinstance(each, Mapping) for each in chat):
            raise DocumentError("a conversation must be a list of messages, {'role': ..., 'content': ...}.")
    return [[{k: v for k, v in each.items() if v is not None} for each in chat] for chat in chats], several


def render_conversation(
    messages: Sequence[Mapping[str, Any]], *, image_token: str | None, continued: bool, allow_files: bool
) -> Conversation:
    """Return a conversation as a prompt of the built-in format.

    ``image_token`` in a text stands for a picture that is given beside the messages; nothing does if it is None.
    ``continued`` leaves the last turn open. Raises ``DocumentError`` for what isn't understood.
    """
    turns, pictures = [], []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in (SYSTEM, USER, ASSISTANT):
            raise DocumentError(
                f"message {number} has the role {role!r:.80}, expected 'system', 'user' or 'assistant'."
            )
        more = sorted(message.keys() - {"role", "content"})
        if more:
            raise DocumentError(f"message {number} has {more[0]!r}, which this format has no place for. Leave it out.")
        segments: list[Segment] = []
        for segment, picture in _parts(message.get("content"), number, image_token, allow_files):
            segments.append(segment)
            pictures += [picture] if isinstance(segment, Image) else []
        turns.append(Turn(role, tuple(segments)))
    pieces = Chat().render(turns)
    if continued and not _has_text(messages[-1].get("content")):
        raise DocumentError("continue_final_message=True needs a last message with text, which it has none of.")
    if continued or pieces[-1].segment == Special(SEPARATOR):
        pieces = pieces[:-1]
    return Conversation(pieces, pictures)


def _has_text(content: Any) -> bool:
    """Whether a message has a text, which may be empty."""
    parts = [] if isinstance(content, str) else content
    return isinstance(content, str) or any(part.get("type") == "text" for part in parts)


def filled(pictures: Sequence[Sequence[Any]], given: Sequence[Any]) -> list[list[Any]]:
    """Return the pictures of conversations, those without one taken from ``given``, in order.

    Raises ``ImageCountError`` where the two differ in number.
    """
    wanted = sum(each is None for of_one in pictures for each in of_one)
    if wanted != len(given):
        raise ImageCountError(
            f"{wanted} of the messages' pictures are given beside them and images has {len(given)}. Pass one for each, "
            "or put it into its part: {'type': 'image', 'image': ...}."
        )
    waiting = iter(given)
    return [[next(waiting) if each is None else each for each in of_one] for of_one in pictures]


def with_pictures(pieces: Sequence[Piece], pictures: Sequence[Any]) -> list[Piece]:
    """Return a prompt with its pictures in its placeholders."""
    waiting = iter(pictures)
    return [
        Piece(Image(next(waiting)), piece.answer) if isinstance(piece.segment, Image) else piece for piece in pieces
    ]


def spelled(pieces: Sequence[Piece], *, image_token: str) -> str:
    """Return a prompt as text: special tokens by their names, pictures as ``image_token``."""
    return "".join(
        segment.text if isinstance(segment, Text) else segment.name if isinstance(segment, Special) else image_token
        for segment in (piece.segment for piece in pieces)
    )


def pictures_of(messages: Sequence[Mapping[str, Any]], *, allow_files: bool) -> list[Any]:
    """Return the pictures that the parts of messages have."""
    found = []
    for number, message in enumerate(messages):
        for segment, picture in _parts(message.get("content", ""), number, None, allow_files):
            found += [picture] if isinstance(segment, Image) and picture is not None else []
    return found


def _parts(content: Any, number: int, image_token: str | None, allow_files: bool) -> Iterator[tuple[Segment, Any]]:
    """Yield the segments of a message, and for pictures what they were given as."""
    if isinstance(content, str):
        yield from _texts(content, image_token)
        return
    if not isinstance(content, (list, tuple)):
        raise DocumentError(f"the content of message {number} is a {type(content).__name__}, expected a str or parts.")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
            yield from _texts(part["text"], image_token)
        elif isinstance(part, Mapping) and kind in ("image", "image_url"):
            yield Image(), _picture(part, number, allow_files)
        else:
            raise DocumentError(
                f"message {number} has a part of type {kind!r:.80}, expected a text or an image; encode_messages takes "
                "other segments."
            )


def _texts(text: str, image_token: str | None) -> Iterator[tuple[Segment, Any]]:
    for index, part in enumerate([text] if image_token is None else text.split(image_token)):
        if index:
            yield Image(), None
        if part:
            yield Text(part), None


def _picture(part: Mapping[str, Any], number: int, allow_files: bool) -> Any:
    fields = {name: value for name, value in part.items() if name != "type" and value is not None}
    unknown = sorted(str(name) for name in fields.keys() - set(IMAGE_FIELDS))
    if unknown or "codes" in fields:
        raise DocumentError(
            f"an image of message {number} has {(unknown or ['codes'])[0]!r:.80}; expected 'image', 'url', 'path' or "
            "'base64'. encode_messages takes codes."
        )
    if not fields:
        return None
    picture = image_of_fields(fields).image
    named = isinstance(picture, (str, os.PathLike)) and not any(
        isinstance(each, os.PathLike) for each in fields.values()
    )
    if named and not allow_files:
        raise DocumentError(
            f"message {number} names the file {os.fspath(picture)!r:.100}, and messages open no files. Pass the "
            "picture as a PIL image or a Path object, or allow_files=True if you trust whoever wrote them."
        )
    return picture
