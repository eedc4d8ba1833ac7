"""Documents on the wire: parts and messages of a request to documents, and what was written to parts.

Parts are those of the toolkit's own JSON form; a picture of an answer has a data URL beside its codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chameleon_core.layout import TokenLayout
from chameleon_text import Document, Image, Text, Turn, document_from_parts, document_to_parts
from chameleon_text.template_calls import render

from .errors import RequestError
from .options import ServeOptions
from .pictures import data_url, read_picture

SOURCES = ("url", "image_url", "image", "base64")
"""The fields of a picture's part that may hold it."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_PER_POSITION = 64
"""How many characters a request's texts may have for each position of the context, before they are tokenized."""


class PartsReader:
    """Reads the parts of one request, and counts its pictures and characters."""

    def __init__(self, options: ServeOptions, context_length: int) -> None:
        self._options = options
        self._max_characters = TEXT_PER_POSITION * context_length
        self._num_pictures = 0
        self._num_characters = 0

    def document(self, parts: str | Sequence[Any], where: str) -> Document:
        """Return the document of a text or of parts; ``where`` is the field that they stand in.

        Raises ``RequestError``, or chameleon-text's ``DocumentError`` for a part that isn't understood.
        """
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        return document_from_parts([self._part(part, f"{where}[{number}]") for number, part in enumerate(parts)])

    def conversation(self, messages: Sequence[Any], template: str, where: str = "messages") -> Document:
        """Return the document of a conversation as a template renders it, for the model to answer."""
        turns = [self._turn(message, f"{where}[{number}]") for number, message in enumerate(messages)]
        if not turns or turns[-1].role != "user":
            raise RequestError("the last message must be a user's, which is answered.", param=where)
        return Document(piece.segment for piece in render(template, turns))

    def prompt(self, parts: str | Sequence[Any], template: str, where: str = "prompt") -> Document:
        """Return the document of a prompt in a template, as a user's turn."""
        turn = Turn("user", tuple(self.document(parts, where)))
        return Document(piece.segment for piece in render(template, [turn]))

    def picture(self, given: Any, where: str) -> Image:
        """Return the picture of a part, or of a data URL alone."""
        part = {"type": "image", "url": given} if isinstance(given, str) else given
        (segment,) = self.document([part], where)
        if not isinstance(segment, Image) or (segment.image is None and segment.codes is None):
            raise RequestError(f"{where} must be a picture: a data: URL, or a part with codes.", param=where)
        return segment

    def _turn(self, message: Any, where: str) -> Turn:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            found = message.get("role") if isinstance(message, Mapping) else message
            raise RequestError(
                f"{where} has the role {found!r:.40}; expected one of {', '.join(map(repr, ROLES))}.",
                param=f"{where}.role",
                code="invalid_value",
            )
        known = ("role", "content", "name", "images", "content_parts")
        unknown = [name for name, value in message.items() if name not in known and value not in (None, [], "")]
        if unknown:
            name = f"{where}.{unknown[0]}"
            raise RequestError(f"Unknown parameter: {name!r:.100}.", param=name[:100], code="unknown_parameter")
        if message.get("name") is not None:
            raise RequestError(
                f"{where} has a name, which the model has no place for. Leave it out.", param=f"{where}.name"
            )
        # An answer of this server, sent back: its parts keep the order of texts and pictures.
        content = message.get("content_parts") or message.get("content")
        place = f"{where}.content"
        parts = [content] if isinstance(content, str) else content or []
        if not isinstance(parts, list):
            raise RequestError(f"{place} must be a text or a list of parts.", param=place, code="invalid_type")
        if not message.get("content_parts"):
            parts = [*parts, *(message.get("images") or ())]
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        if not parts:
            raise RequestError(f"{place} is empty.", param=place, code="invalid_value")
        return Turn(ROLES[message["role"]], tuple(self.document(parts, place)))

    def _part(self, part: Any, where: str) -> Any:
        """Return a part with its picture read; one that has codes needs no other picture."""
        if not isinstance(part, Mapping):
            return part
        kind = part.get("type")
        if kind == "text":
            self._count_text(part.get("text"), where)
            return part
        if kind not in ("image", "image_url"):
            return part
        self._num_pictures += 1
        if self._num_pictures > self._options.max_pictures:
            raise RequestError(
                f"the request has more than {self._options.max_pictures} pictures.", param=where, code="too_many_images"
            )
        given = {name: part[name] for name in SOURCES if part.get(name) is not None}
        others = {name: value for name, value in part.items() if name not in SOURCES and name != "index"}
        if part.get("codes") is not None:
            others.pop("path", None)
            return {**others, "type": "image"}
        if part.get("path") is not None or len(given) != 1:
            raise RequestError(
                f"{where} must have one picture: codes, or image_url with a data: URL; no path is opened.",
                param=where,
                code="invalid_image_url",
            )
        ((name, source),) = given.items()
        if isinstance(source, Mapping):
            if source.get("detail", "auto") not in ("auto", None):
                raise RequestError(
                    f"{where}.{name}.detail isn't offered: pictures are read at the model's size.",
                    param=f"{where}.{name}.detail",
                )
            name, source = f"{name}.url", source.get("url")
        picture = read_picture(source, f"{where}.{name}", self._options.max_pixels)
        return {**others, "type": "image", "image": picture}

    def _count_text(self, text: Any, where: str) -> None:
        self._num_characters += len(text) if isinstance(text, str) else 0
        if self._num_characters > self._max_characters:
            raise RequestError(
                f"the request has more than {self._max_characters:,} characters of text, more than the context holds.",
                param=where,
                code="context_length_exceeded",
            )


def parts_of(document: Document, layout: TokenLayout) -> list[dict[str, Any]]:
    """Return a document that was written as parts: pictures with their codes, their grid and a data URL."""
    parts = []
    for segment in document:
        if isinstance(segment, Text):
            parts.append({"type": "text", "text": segment.text})
        elif isinstance(segment, Image):
            grid = grid_of(segment, layout)
            part: dict[str, Any] = {"type": "image", "codes": list(segment.codes or ())}
            if all(grid):
                part["grid"] = list(grid)
            if segment.image is not None:
                part["url"] = data_url(segment.image)
            parts.append(part)
        else:
            parts += document_to_parts([segment])
    return parts


def pictures_of(document: Document, layout: TokenLayout) -> list[dict[str, Any]]:
    """Return what the pictures of a document are made of: grid, size in pixels, codes and ids."""
    return [
        {"part": number, **picture_tokens(segment.codes or (), grid_of(segment, layout), layout)}
        for number, segment in enumerate(document)
        if isinstance(segment, Image)
    ]


def picture_tokens(codes: Sequence[int], grid: tuple[int, int], layout: TokenLayout) -> dict[str, Any]:
    """Return the codes of a picture with their ids, its grid and its size in pixels, [height, width]."""
    return {
        "grid": list(grid),
        "size": list(layout.pictures.pixels(grid)) if codes else None,
        "codes": list(codes),
        "ids": [int(layout.code_to_id_Z[code]) for code in codes],
    }


def grid_of(segment: Image, layout: TokenLayout) -> tuple[int, int]:
    """Return the height and width of a picture's grid; of one that was cut off before its size, (0, 0)."""
    if segment.grid is not None:
        return segment.grid
    first = layout.pictures.grids[0]
    return (0, 0) if layout.pictures.has_sizes else (first.height, first.width)
