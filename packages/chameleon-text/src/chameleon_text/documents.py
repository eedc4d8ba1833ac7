"""Documents as JSON, and conversations as chat messages.

A document is a JSON array of parts, ``{"type": "text", "text": ...}`` or ``{"type": "image", "codes": [...]}``; a
message is ``{"role": ..., "content": ...}`` with a str or such an array. A plugin's segment type has parts of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .errors import DocumentError, ImageCountError
from .hookspecs import SegmentCodecSpec
from .plugins import resolve
from .registry import segment_codec_spec, segment_codec_specs
from .segments import Document, Image, Segment, Text, as_document
from .templates import Turn


def document_to_json(document: object) -> str:
    """Return a document as JSON text: pictures as their codes, as their path, or as PNG where they have neither.

    Raises ``DocumentError`` for a segment whose type no installed codec writes.
    """
    return json.dumps(document_to_parts(document), ensure_ascii=False)


def document_from_json(text: str | bytes) -> Document:
    """Return the document of a JSON text. Raises ``DocumentError`` where it isn't an array of known parts."""
    try:
        parts = json.loads(text)
    except ValueError as error:  # JSONDecodeError, and UnicodeDecodeError for bytes
        raise DocumentError(f"a document must be a JSON array of parts; this isn't JSON: {error}.") from error
    if not isinstance(parts, list):
        raise DocumentError(f"a document must be a JSON array of parts, not {type(parts).__name__}.")
    return document_from_parts(parts)


def document_to_parts(document: object) -> list[dict[str, Any]]:
    """Return a document as the parts of a message's content, all plain JSON."""
    return [_part(segment) for segment in as_document(document)]


def document_from_parts(parts: Sequence[Any], *, images: Iterable[Any] = ()) -> Document:
    """Return the document of a message's parts.

    ``{"type": "image"}`` alone takes the next of ``images``. Raises ``DocumentError`` for a part that isn't understood
    and ``ImageCountError`` where the pictures are too few or too many.
    """
    waiting = iter(images)
    document = Document(_segment(part, position, waiting) for position, part in enumerate(parts))
    _check_used(waiting)
    return document


def turns_from_messages(messages: Iterable[Mapping[str, Any]], *, images: Iterable[Any] = ()) -> list[Turn]:
    """Return the turns of chat messages, ``[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]``.

    ``content`` is a str or a list of parts. A part that is only ``{"type": "image"}`` takes the next of ``images``.
    Raises ``DocumentError`` for what isn't understood, ``ImageCountError`` where the pictures are too few or too many.
    """
    waiting = iter(images)
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DocumentError(f"message {number} is {message!r}, expected {{'role': ..., 'content': ...}}.")
        content = message.get("content")
        if isinstance(content, str):
            document = Document([Text(content)])
        elif isinstance(content, (list, tuple)):
            document = Document(_segment(part, position, waiting) for position, part in enumerate(content))
        else:
            raise DocumentError(
                f"the content of message {number} is a {type(content).__name__}, expected a str or a list of parts."
            )
        turns.append(Turn(message["role"], tuple(document)))
    _check_used(waiting)
    return turns


def messages_from_turns(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """Return chat messages with the content as parts, all plain JSON."""
    return [{"role": turn.role, "content": document_to_parts(list(turn.document))} for turn in turns]


def spec_of(segment: Segment) -> SegmentCodecSpec:
    """Return the installed codec of a segment's type. Raises ``DocumentError`` where there is none."""
    specs = segment_codec_specs()
    for spec in specs:
        if type(segment) is spec.segment:
            return spec
    installed = ", ".join(f"{spec.name} ({spec.segment.__name__})" for spec in specs)
    raise DocumentError(f"no installed codec is for {type(segment).__name__} segments. Installed: {installed}.")


def _part(segment: Segment) -> dict[str, Any]:
    spec = spec_of(segment)
    fields = msgspec.json.decode(msgspec.json.encode(segment)) if spec.dump is None else resolve(spec.dump)(segment)
    return {"type": spec.name, **fields}


def _segment(part: Any, position: int, images: Any) -> Segment:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise DocumentError(f"part {position} is {part!r}, expected an object with a 'type'.")
    fields = {name: value for name, value in part.items() if name != "type"}
    name = "image" if part["type"] == "image_url" else part["type"]  # OpenAI's name for it
    if name == "image" and not fields:
        try:
            return Image(next(images))
        except StopIteration:
            raise ImageCountError(
                "there are more {'type': 'image'} parts than pictures: pass the pictures as images=[...], "
                "or put each into its part as 'image', 'path', 'url', 'base64' or 'codes'."
            ) from None
    spec = segment_codec_spec(name)
    if spec.load is not None:
        return resolve(spec.load)(fields)
    try:
        return msgspec.convert(fields, spec.segment)
    except msgspec.ValidationError as error:
        raise DocumentError(f"part {position}, of type {part['type']!r}, isn't understood: {error}.") from error


def _check_used(images: Any) -> None:
    left = len(list(images))
    if left:
        raise ImageCountError(f"{left} of the images are left over: there is no {{'type': 'image'}} part for them.")
