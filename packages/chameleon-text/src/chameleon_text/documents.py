"""Documents as JSON, and conversations as chat messages.

A document is a JSON array of parts, ``{"type": "text", "text": ...}`` or ``{"type": "image", "codes": [...]}``; a
message is ``{"role": ..., "content": ...}`` with a str or such an array. A plugin's segment type has parts of its own.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ._files import parse_json
from .errors import DocumentError, ImageCountError
from .hookspecs import SegmentCodecSpec
from .pictures import IMAGE_FIELDS
from .plugin_calls import described, plugin_call, wrong
from .plugins import resolve
from .registry import segment_codec_spec, segment_codec_specs
from .segments import Document, Image, Segment, Text, as_document, is_picture
from .templates import Turn

HALF_OF_A_PAIR = "a text of the document has half of a surrogate pair, which is not a character."


def document_to_json(document: object) -> str:
    """Return a document as JSON text: pictures as their codes, as their path, or as PNG where they have neither.

    Raises ``DocumentError`` for a segment whose type no installed codec writes.
    """
    try:
        text = json.dumps(document_to_parts(document), ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(HALF_OF_A_PAIR) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(
            f"a segment of the document has a value that JSON can't hold: {str(error).removesuffix('.')}."
        ) from error
    return text


def document_from_json(text: str | bytes, *, allow_files: bool = False) -> Document:
    """Return the document of a JSON text. Raises ``DocumentError`` where it isn't an array of known parts.

    A picture that is given by a path or a ``file:`` URL is an error unless ``allow_files`` is True, because whoever
    wrote the document would choose which files of this machine are opened. A path beside codes is kept: it is a name,
    which nothing opens.
    """
    parts = parse_json(text, "a document must be a JSON array of parts; this", error=DocumentError)
    if not isinstance(parts, list):
        raise DocumentError(f"a document must be a JSON array of parts, not {type(parts).__name__}.")
    return document_from_parts(parts, allow_files=allow_files)


def document_to_parts(document: object) -> list[dict[str, Any]]:
    """Return a document as the parts of a message's content, all plain JSON."""
    return [_part(segment) for segment in as_document(document)]


def document_from_parts(parts: Sequence[Any], *, images: Iterable[Any] = (), allow_files: bool = False) -> Document:
    """Return the document of a message's parts.

    ``{"type": "image"}`` alone takes the next of ``images``. ``allow_files`` is that of ``document_from_json``; a
    ``Path`` object in a part, and whatever is in ``images``, is opened without it. Raises ``DocumentError`` for a part
    that isn't understood and ``ImageCountError`` where the pictures are too few or too many.
    """
    if not isinstance(parts, (list, tuple)):
        raise DocumentError(f"the parts of a document are a {type(parts).__name__}, expected a list.")
    waiting = _pictures(images)
    document = Document(_segment(part, position, waiting, allow_files) for position, part in enumerate(parts))
    _check_used(waiting)
    return document


def turns_from_messages(
    messages: Iterable[Mapping[str, Any]], *, images: Iterable[Any] = (), allow_files: bool = False
) -> list[Turn]:
    """Return the turns of chat messages, ``[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]``.

    ``content`` is a str or a list of parts. A part that is only ``{"type": "image"}`` takes the next of ``images``.
    ``allow_files`` is that of ``document_from_parts``. Raises ``DocumentError`` for what isn't understood,
    ``ImageCountError`` where the pictures are too few or too many.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Iterable):
        raise DocumentError(f"the messages are a {type(messages).__name__}, expected a list.")
    waiting = _pictures(images)
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DocumentError(
                f"message {number} is a {type(message).__name__}{' without a role' * isinstance(message, Mapping)}, "
                "expected {'role': ..., 'content': ...}."
            )
        _check_fields(f"message {number}", message, ("role", "content"))
        content = message.get("content")
        if isinstance(content, str):
            document = Document([Text(content)])
        elif isinstance(content, (list, tuple)):
            document = Document(_segment(part, position, waiting, allow_files) for position, part in enumerate(content))
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
    owner = spec.called
    with plugin_call(owner, "writing a segment as JSON"):
        try:
            if spec.dump is None:
                fields = msgspec.json.decode(msgspec.json.encode(segment))
            else:
                fields = resolve(spec.dump)(segment)
        except UnicodeEncodeError as error:
            raise DocumentError(HALF_OF_A_PAIR) from error
    if not isinstance(fields, dict):
        wrong(owner, f"{described(fields)} from dump; expected a dict of the fields.")
    return {"type": spec.name, **fields}


def _segment(part: Any, position: int, images: Iterator[Any], allow_files: bool) -> Segment:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise DocumentError(
            f"part {position} is a {type(part).__name__}{' without one' * isinstance(part, Mapping)}, expected an "
            "object with a 'type'."
        )
    fields = {name: value for name, value in part.items() if name != "type"}
    name = "image" if part["type"] == "image_url" else part["type"]  # OpenAI's name for it
    if len(name) > 100:
        raise DocumentError(f"part {position} has a type of {len(name):,} characters, expected the name of one.")
    spec = segment_codec_spec(name)
    where = f"part {position}, of type {part['type']!r},"
    if spec.segment is Image:
        # Data sets that give every part the same fields have null for those that it lacks.
        fields = {each: value for each, value in fields.items() if value is not None or each == "codes"}
        _check_fields(where, fields, IMAGE_FIELDS)
        if not fields:
            return _next_picture(images)
    elif spec.load is None:
        known = spec.segment.__struct_encode_fields__
        _check_fields(where, fields, known)
        fields = {each: value for each, value in fields.items() if each in known}
    owner = spec.called
    with plugin_call(owner, f"reading {where.rstrip(',')}"):
        try:
            segment = msgspec.convert(fields, spec.segment) if spec.load is None else resolve(spec.load)(fields)
        except msgspec.ValidationError as error:
            raise DocumentError(f"{where} isn't understood: {error}.") from error
    if not isinstance(segment, spec.segment):
        wrong(owner, f"{described(segment)} from load; expected a {spec.segment.__name__}.")
    if isinstance(segment, Image) and not allow_files:
        _check_opens_nothing(segment, fields, where)
    return segment


def _next_picture(images: Iterator[Any]) -> Image:
    try:
        return Image(next(images))
    except StopIteration:
        raise ImageCountError(
            "there are more {'type': 'image'} parts than pictures: pass the pictures as images=[...], "
            "or put each into its part as 'image', 'path', 'url', 'base64' or 'codes'."
        ) from None


def _check_opens_nothing(segment: Image, fields: Mapping[str, Any], where: str) -> None:
    """Raise ``DocumentError`` where reading the picture would open a file that the document names by a str."""
    if segment.codes is not None or not isinstance(segment.image, (str, os.PathLike)):
        return
    if any(isinstance(value, os.PathLike) for value in fields.values()):
        return  # no JSON holds a Path: it is the caller's own
    raise DocumentError(
        f"{where} names the file {os.fspath(segment.image)!r:.100}, and a document opens no files. Pass the picture as "
        "images=[...] or as a Path object, or allow_files=True if you trust whoever wrote the document."
    )


def _check_fields(where: str, fields: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ``DocumentError`` for a field that would be ignored. An unknown one that is null says nothing."""
    for name, value in fields.items():
        if name in known or value is None:
            continue
        close = difflib.get_close_matches(str(name)[:100], known, n=1)
        suggestion = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(map(repr, known))}."
        raise DocumentError(f"{where.rstrip(',')} has an unknown field {name!r:.100}. {suggestion}")


def _pictures(images: Any) -> Iterator[Any]:
    if images is None:
        return iter(())
    if isinstance(images, str) or is_picture(images):
        return iter((images,))
    if isinstance(images, Iterable):
        return iter(images)
    raise DocumentError(f"images is a {type(images).__name__}, expected a list of pictures.")


def _check_used(images: Iterator[Any]) -> None:
    left = sum(1 for _ in images)
    if left:
        raise ImageCountError(f"{left} of the images are left over: there is no {{'type': 'image'}} part for them.")
