"""The toolkit's own endpoints: documents in and out, a picture's tokens, a part of a picture drawn anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from chameleon_core import Chameleon
from chameleon_core.layout import TokenLayout
from chameleon_core.pipeline import (
    Event,
    Finished,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    SegmentFinished,
    SegmentProgress,
    SegmentStarted,
    TextDelta,
)
from chameleon_text import Document

from .answers import Answer, usage
from .calls import Call, Edit, Ready, coded_picture
from .documents import PartsReader, grid_of, parts_of, picture_tokens, pictures_of
from .errors import RequestError
from .options import ServeOptions
from .outbox import Message
from .pictures import data_url, read_picture
from .requests import DocumentRequest, EditRequest, TokensRequest

PROGRESS_SECONDS = 0.05
"""How long after an event that counts the codes of a picture the next one comes."""


def document_call(body: DocumentRequest, reader: PartsReader, limits: ServeOptions) -> Call:
    """Return what a request asks for. Raises ``RequestError``."""
    rows = body.n or 1
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages.", param="prompt")
    if body.messages is not None:
        document = reader.conversation(body.messages, body.template)
    else:
        document = reader.prompt(body.prompt or [], body.template)
    options = dict(body.options or {})
    if body.modality is not None:
        if options.get("modality", body.modality) != body.modality:
            raise RequestError("modality and options.modality differ. Leave one out.", param="modality")
        options["modality"] = body.modality
    if body.preview_every and not body.stream:
        raise RequestError("preview_every is for streams: set stream to true.", param="preview_every")
    return Call(
        document=document,
        options=options,
        rows=rows,
        negative=negative_prompt(body.negative_prompt, reader, body.template),
        edit=_edit(body, reader, limits) if isinstance(body, EditRequest) else None,
        written=_written(body, reader),
        preview_every=body.preview_every,
    )


def negative_prompt(given: Any, reader: PartsReader, template: str) -> Document | None:
    """Return the document of a negative prompt."""
    return None if given is None else reader.prompt(given, template, "negative_prompt")


def tokens_of(body: TokensRequest, reader: PartsReader, chameleon: Chameleon) -> dict[str, Any]:
    """Return the codes of a picture, and what the image tokenizer draws of them. Raises ``ChameleonCoreError``.

    Of a picture that was cut off, complete rows of the grid are drawn.
    """
    picture = coded_picture(reader.picture(body.picture, "picture"), chameleon)
    layout = chameleon.layout
    grid = grid_of(picture, layout)
    codes = picture.codes or ()
    if grid not in layout.pictures.grids or not 0 < len(codes) <= layout.pictures.num_codes(grid):
        raise RequestError(
            f"the picture has {len(codes)} codes in a grid of {grid[0]}×{grid[1]}, which isn't one of this model's.",
            param="picture",
        )
    if max(codes) >= layout.num_codes:
        raise RequestError(f"the model's codes are 0…{layout.num_codes - 1}.", param="picture.codes")
    return {
        **picture_tokens(codes, grid, layout),
        "num_codes": layout.pictures.num_codes(grid),
        "url": data_url(_drawn(codes, grid, chameleon)),
    }


def _drawn(codes: Sequence[int], grid: tuple[int, int], chameleon: Chameleon) -> Any:
    pictures = chameleon.layout.pictures
    tokenizer: Any = chameleon.image_tokenizer
    size = {"latent_size": grid} if pictures.has_sizes else {}
    if len(codes) < pictures.num_codes(grid):
        return tokenizer.preview(list(codes), **size)
    (drawn,) = tokenizer.decode([list(codes)], **size)
    return drawn


class DocumentPresenter:
    """Events as they are in ``Chameleon.stream``, or the whole answer at the end."""

    def __init__(self, ready: Ready, answer: Answer, layout: TokenLayout, *, streams: bool) -> None:
        self._answer = answer
        self._layout = layout
        self._streams = streams
        self._prompt_tokens = ready.prompt_tokens
        self._seed = ready.options.seed
        self._rows: dict[int, dict[str, Any]] = {}
        self._grids: dict[int, tuple[int, int]] = {}
        self._written = 0
        self._counted: dict[int, float] = {}

    def start(self) -> Iterator[Message]:
        """Yield the first event."""
        if self._streams:
            first = {**self._answer.head("document"), "seed": self._seed, "prompt_tokens": self._prompt_tokens}
            yield Message(first, "Started")

    def push(self, event: Event) -> Iterator[Message]:
        """Yield the message of an event."""
        if isinstance(event, Finished):
            self._written += len(event.new_ids)
            row = {
                "row": event.row,
                "reason": event.reason,
                "document": parts_of(event.document, self._layout),
                "ids": list(event.new_ids),
                "pictures": pictures_of(event.document, self._layout),
            }
            self._rows[event.row] = row
            if self._streams:
                yield Message(row, "Finished")
        elif self._streams and not self._is_too_soon(event):
            if isinstance(event, ImageStarted):
                first = self._layout.pictures.grids[0]
                self._grids[event.row] = event.grid or (first.height, first.width)
            merges = ("progress", event.row) if isinstance(event, ImageProgress) else None
            yield Message(self._fields(event), type(event).__name__, merges)

    def end(self) -> Iterator[Message]:
        """Yield the last event, or the whole answer."""
        counts = usage(self._prompt_tokens, self._written)
        if self._streams:
            yield Message({"usage": counts}, "Done")
            return
        rows = [self._rows[row] for row in sorted(self._rows)]
        yield Message({**self._answer.head("document"), "seed": self._seed, "rows": rows, "usage": counts})

    def _is_too_soon(self, event: Event) -> bool:
        """Return whether an event only counts codes, shortly after another of its row."""
        if not isinstance(event, ImageProgress) or event.preview is not None:
            return False
        now = time.monotonic()
        if event.codes_done < event.num_codes and now - self._counted.get(event.row, 0.0) < PROGRESS_SECONDS:
            return True
        self._counted[event.row] = now
        return False

    def _fields(self, event: Event) -> dict[str, Any]:
        """Return the data of an event: its fields, pictures as data URLs."""
        match event:
            case TextDelta():
                return {"row": event.row, "text": event.text}
            case ImageStarted():
                return {"row": event.row, "num_codes": event.num_codes, "grid": list(self._grids[event.row])}
            case ImageProgress():
                return {
                    "row": event.row,
                    "codes_done": event.codes_done,
                    "num_codes": event.num_codes,
                    "preview": None if event.preview is None else data_url(event.preview),
                    "codes": None if event.preview is None else list(event.codes),
                }
            case ImageFinished():
                tokens = picture_tokens(event.codes, self._grids[event.row], self._layout)
                return {"row": event.row, "image": data_url(event.image), **tokens}
            case SegmentStarted():
                return {"row": event.row, "kind": event.kind}
            case SegmentProgress():
                return {"row": event.row, "kind": event.kind, "ids_done": event.ids_done}
            case SegmentFinished():
                (part,) = parts_of(Document([event.segment]), self._layout)
                return {"row": event.row, "kind": event.kind, "segment": part}
            case _:
                raise TypeError(f"unknown event {type(event).__name__}")


def _edit(body: EditRequest, reader: PartsReader, limits: ServeOptions) -> Edit:
    given = [name for name in ("cells", "mask", "strength") if getattr(body, name) is not None]
    if len(given) != 1:
        raise RequestError("give one of cells, mask and strength.", param=given[1] if given else "cells")
    mask = None if body.mask is None else read_picture(body.mask, "mask", limits.max_pixels)
    return Edit(picture=reader.picture(body.picture, "picture"), cells=body.cells, mask=mask, strength=body.strength)


def _written(body: DocumentRequest, reader: PartsReader) -> list[Any] | None:
    if body.written is None:
        return None
    if (body.n or 1) != 1:
        raise RequestError("written is what one row wrote: leave n out.", param="written")
    if all(isinstance(each, int) and not isinstance(each, bool) for each in body.written):
        return list(body.written)
    return list(reader.document(body.written, "written"))
