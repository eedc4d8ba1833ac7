"""What a stream yields while a document is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from .._moved import moved_names
from ..generation import FinishReason

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document, Segment

Reason: TypeAlias = FinishReason
"""Why a row ended: it was finished (the end of the stream, a stop id or string, a complete picture), it reached the
most new ids, the caller stopped it, or its time was over."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, in whole characters; the text of a document is its deltas put together."""

    row: int
    """The index of the prompt, ≥ 0."""
    text: str
    """The new text, not empty."""


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """A picture begins, and its size is known."""

    row: int
    """The index of the prompt, ≥ 0."""
    num_codes: int
    """How many codes the picture will have."""
    grid: tuple[int, int] | None = None
    """The height and width of its grid of codes; None, the default, where the model's pictures all have one."""


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """One more code of the picture was written."""

    row: int
    """The index of the prompt, ≥ 0."""
    codes_done: int
    """How many codes the picture has, ≥ 1."""
    num_codes: int
    """How many codes the picture will have."""
    preview: PILImage | None
    """The picture as far as it is drawn, every ``preview_every`` codes; None between them."""
    codes: tuple[int, ...] = field(default=(), compare=False)
    """The codes so far, in reading order, where there is a preview; none between them."""

    def __repr__(self) -> str:
        preview = _shown(self.preview)
        return f"ImageProgress(row={self.row}, codes_done={self.codes_done}, num_codes={self.num_codes}, {preview=!s})"


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """A picture is complete."""

    row: int
    """The index of the prompt, ≥ 0."""
    image: PILImage
    """The picture, drawn."""
    codes: tuple[int, ...]
    """Its codes, in reading order."""

    def __repr__(self) -> str:
        return f"ImageFinished(row={self.row}, image={_shown(self.image)}, codes=<{len(self.codes)} codes>)"


@dataclass(frozen=True, slots=True)
class SegmentStarted:
    """A segment of a codec begins."""

    row: int
    """The index of the prompt, ≥ 0."""
    kind: str
    """The codec's name."""


@dataclass(frozen=True, slots=True)
class SegmentProgress:
    """One more id of the segment was written."""

    row: int
    """The index of the prompt, ≥ 0."""
    kind: str
    """The codec's name."""
    ids_done: int
    """How many ids the segment has, its begin included, ≥ 2."""


@dataclass(frozen=True, slots=True)
class SegmentFinished:
    """A segment of a codec is complete."""

    row: int
    """The index of the prompt, ≥ 0."""
    kind: str
    """The codec's name."""
    segment: Segment
    """The segment, as it is in the document."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A row has ended; its last event."""

    row: int
    """The index of the prompt, ≥ 0."""
    reason: Reason
    """Why it ended."""
    document: Document
    """The continuation, without the prompt. A picture or another segment that was cut off is in it with what it has."""
    new_ids: tuple[int, ...] = field(default=(), compare=False)
    """The ids of the continuation; ``written=new_ids`` goes on exactly where it ended."""

    def __repr__(self) -> str:
        segments = ", ".join(type(segment).__name__ for segment in self.document)
        return f"Finished(row={self.row}, reason={self.reason!r}, document=<{segments or 'empty'}>)"


Event: TypeAlias = (
    TextDelta
    | ImageStarted
    | ImageProgress
    | ImageFinished
    | SegmentStarted
    | SegmentProgress
    | SegmentFinished
    | Finished
)
"""What a stream yields; each has the ``row`` of its prompt."""


def _shown(image: Any) -> str:
    """Return a picture as a repr shows it: by its size in pixels."""
    size = getattr(image, "size", None)
    return f"<{size[0]} × {size[1]} pixels>" if isinstance(size, tuple) else repr(image)


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "RowReader": "chameleon_core.pipeline.row_reader:RowReader",
        },
    )
