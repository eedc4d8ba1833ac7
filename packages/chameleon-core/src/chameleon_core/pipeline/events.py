"""What a stream yields while a document is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document

Reason = Literal["stop", "length", "cancelled"]
"""Why a row ended: it came to its end; the limit of new ids came first; the caller stopped it."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, whole characters only; a document's text is its deltas put together."""

    row: int
    text: str


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """A picture begins."""

    row: int
    num_codes: int
    """N: how many codes it will have."""


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """One more code of the picture is there."""

    row: int
    codes_done: int
    num_codes: int
    preview: PILImage | None
    """The picture as far as it is drawn, every ``preview_every`` codes; None between them."""


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """A picture is whole."""

    row: int
    image: PILImage
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A row has ended; its last event."""

    row: int
    reason: Reason
    document: Document
    """The continuation, without the prompt. A picture that was cut off is there with the codes that it has."""


Event: TypeAlias = TextDelta | ImageStarted | ImageProgress | ImageFinished | Finished
