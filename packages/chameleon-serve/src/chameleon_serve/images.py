"""``/v1/images/generations``: pictures of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chameleon_core.layout import TokenLayout
from chameleon_core.pipeline import Event, Finished, ImageFinished, ImageProgress, ImageStarted

from .answers import Answer
from .calls import Call, Ready
from .documents import PartsReader
from .errors import RequestError
from .native import negative_prompt
from .neutral import IMAGES, refuse_all_but_neutral
from .outbox import Message
from .pictures import base64_png
from .requests import ImageRequest


def image_call(body: ImageRequest, reader: PartsReader, layout: TokenLayout) -> Call:
    """Return what a request asks for. Raises ``RequestError``."""
    refuse_all_but_neutral(body, IMAGES)
    if body.response_format not in (None, "b64_json"):
        raise RequestError(
            "response_format must be b64_json: the server keeps no pictures to fetch.",
            param="response_format",
            code="unsupported_parameter",
        )
    if body.stream and (body.n or 1) != 1:
        raise RequestError("a stream has one picture: leave n out.", param="n")
    if body.partial_images and not body.stream:
        raise RequestError("partial_images are for streams: set stream to true.", param="partial_images")
    options = {**(body.options or {}), "modality": "image"}
    if (size := size_of(body.size, layout)) is not None:
        options["image_size"] = size
    if body.seed is not None:
        options["seed"] = body.seed
    return Call(
        document=reader.prompt(body.prompt, "chat"),
        options=options,
        rows=body.n or 1,
        negative=negative_prompt(body.negative_prompt, reader, "chat"),
        previews=body.partial_images or 0,
    )


def size_of(size: str | None, layout: TokenLayout) -> tuple[int, int] | None:
    """Return the height and width of a size, ``WIDTHxHEIGHT``; None for "auto". Raises ``RequestError``."""
    if size in (None, "auto"):
        return None
    sizes = {size_name(layout, grid): layout.pictures.pixels(grid) for grid in layout.pictures.grids}
    if size not in sizes or not re.fullmatch(r"\d+x\d+", size):
        some = ", ".join(list(sizes)[:12])
        raise RequestError(
            f"size is {size!r:.40}; this model draws {some}{', …' if len(sizes) > 12 else ''}, or auto.",
            param="size",
            code="invalid_value",
        )
    return sizes[size]


def size_name(layout: TokenLayout, grid: tuple[int, int]) -> str:
    """Return the size of the pictures of a grid as the API names it, ``WIDTHxHEIGHT``."""
    height, width = layout.pictures.pixels(grid)
    return f"{width}x{height}"


class ImagePresenter:
    """Pictures while they are drawn, or all at the end."""

    def __init__(self, ready: Ready, answer: Answer, body: ImageRequest, layout: TokenLayout) -> None:
        self._answer = answer
        self._streams = bool(body.stream)
        self._layout = layout
        self._prompt_tokens = ready.prompt_tokens
        self._seed = ready.options.seed
        self._written = 0
        self._partial = 0
        self._grids: dict[int, tuple[int, int]] = {}
        self._pictures: dict[int, dict[str, Any]] = {}
        self._reasons: dict[int, str] = {}

    def start(self) -> Iterator[Message]:
        """Yield nothing: a stream begins with its first picture."""
        return iter(())

    def push(self, event: Event) -> Iterator[Message]:
        """Yield the event of a picture as far as it is drawn."""
        match event:
            case ImageStarted():
                first = self._layout.pictures.grids[0]
                self._grids[event.row] = event.grid or (first.height, first.width)
            case ImageProgress() if event.preview is not None and self._streams:
                name = "image_generation.partial_image"
                data = self._event(name, base64_png(event.preview), event.row)
                yield Message({**data, "partial_image_index": self._partial}, name)
                self._partial += 1
            case ImageFinished():
                picture: dict[str, Any] = {"b64_json": base64_png(event.image)}
                picture |= {"codes": list(event.codes), "grid": list(self._grids[event.row])}
                self._pictures[event.row] = picture
            case Finished():
                self._written += len(event.new_ids)
                self._reasons[event.row] = event.reason
            case _:
                pass

    def end(self) -> Iterator[Message]:
        """Yield the whole picture, or all of them. Raises ``RequestError`` where time was over before one was drawn."""
        if len(self._pictures) < len(self._reasons):
            reasons = sorted({reason for row, reason in self._reasons.items() if row not in self._pictures})
            raise RequestError(
                f"a picture wasn't finished: {', '.join(reasons)}.", status=503, code="unfinished", retry_after=1
            )
        if self._streams:
            name = "image_generation.completed"
            picture = self._pictures[0]
            yield Message({**self._event(name, picture["b64_json"], 0), **picture, "usage": self._usage()}, name)
            return
        pictures = [self._pictures[row] for row in sorted(self._pictures)]
        yield Message(
            {
                "created": self._answer.created,
                "data": pictures,
                "background": "opaque",
                "output_format": "png",
                "size": self._size(0),
                "seed": self._seed,
                "usage": self._usage(),
            }
        )

    def _event(self, name: str, picture: str, row: int) -> dict[str, Any]:
        return {
            "type": name,
            "b64_json": picture,
            "created_at": self._answer.created,
            "background": "opaque",
            "output_format": "png",
            "quality": "auto",
            "size": self._size(row),
        }

    def _size(self, row: int) -> str:
        return size_name(self._layout, self._grids[row])

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self._prompt_tokens,
            "output_tokens": self._written,
            "total_tokens": self._prompt_tokens + self._written,
            "input_tokens_details": {"text_tokens": self._prompt_tokens, "image_tokens": 0},
        }
