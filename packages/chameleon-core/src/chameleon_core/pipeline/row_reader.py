"""From the ids of one row to its events, and to its document.

Shapes: N codes a picture.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..layout import TokenLayout
from ..optional_packages import text_package
from ..picture_grammars import Grid, OpenPicture
from ..protocols import OpenSegmentLike, StreamDecoderLike
from .events import (
    Event,
    Finished,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    Reason,
    SegmentFinished,
    SegmentProgress,
    SegmentStarted,
    TextDelta,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document, Segment


class RowReader:
    """Turns one row's new ids, one at a time, into events, and at the end into a document.

    ``draw`` makes a picture of N codes, ``preview`` one of fewer, every ``preview_every`` codes (0: never); both get
    the codes and their grid, which is None where all pictures have one. ``decode`` makes segments of the ids of a
    codec's. ``document`` is the empty document that it fills.
    """

    def __init__(
        self,
        row: int,
        *,
        layout: TokenLayout,
        decoder: StreamDecoderLike,
        draw: Callable[[Sequence[int], Grid | None], PILImage],
        preview: Callable[[Sequence[int], Grid | None], PILImage],
        decode: Callable[[Sequence[int]], Sequence[Segment]],
        document: Document,
        preview_every: int = 0,
    ) -> None:
        self._row = row
        self._layout = layout
        self._decoder = decoder
        self._draw = draw
        self._preview = preview
        self._decode = decode
        self._preview_every = preview_every
        self._document = document
        self._text = ""
        self._picture: OpenPicture | None = None
        self._codes: list[int] = []
        self._kinds = {
            begin_id: kind for kind, grammar in layout.segment_grammars.items() for begin_id in grammar.begin_ids
        }
        self._open: OpenSegmentLike | None = None
        self._segment_ids: list[int] = []
        self._new_ids: list[int] = []

    def resume(self, ids: Sequence[int]) -> Iterator[Event]:
        """Take what was written in an earlier run, and yield that a picture or segment is open where it ends in one."""
        preview_every, self._preview_every = self._preview_every, 0
        for token_id in ids:
            collections.deque(self.push(token_id), maxlen=0)
        self._preview_every = preview_every
        yield from self._announced()
        if self._open is not None:
            yield SegmentStarted(self._row, self._kinds[self._segment_ids[0]])

    def push(self, token_id: int) -> Iterator[Event]:
        """Yield the events of the next id; ids that are neither text nor of a picture or segment have none."""
        self._new_ids.append(token_id)
        if self._picture is not None:
            yield from self._in_picture(self._picture, token_id)
        elif self._open is not None:
            yield from self._in_segment(self._open, token_id)
        elif token_id in self._kinds:
            yield from self._finish_text()
            yield from self._begin_segment(token_id)
        elif token_id == self._layout.begin_image_id:
            yield from self._finish_text()
            self._codes = []
            self._picture = self._layout.pictures.open()
            yield from self._announced()
        elif token_id in self._layout.text_ids:
            yield from self._text_delta(self._decoder.push(token_id))

    def finish(self, reason: Reason) -> Iterator[Event]:
        """Yield the row's last events. The reader can't be used afterwards."""
        yield from self._finish_text()
        if self._picture is not None:
            self._keep_unfinished(self._picture)
        if self._open is not None:
            self._document.extend(self._decode(self._segment_ids))
        yield Finished(self._row, reason, self._document, tuple(self._new_ids))

    def _in_picture(self, picture: OpenPicture, token_id: int) -> Iterator[Event]:
        is_code = picture.next_ids is None
        is_announced = picture.grid is not None
        self._picture = picture.accept(token_id)
        if is_code:
            self._codes.append(self._layout.codes_by_id[token_id])
            yield self._progress(picture)
        elif self._picture is None:
            yield self._finish_image(picture)
        elif not is_announced:
            yield from self._announced()

    def _begin_segment(self, begin_id: int) -> Iterator[Event]:
        kind = self._kinds[begin_id]
        yield SegmentStarted(self._row, kind)
        self._segment_ids = [begin_id]
        self._open = self._layout.segment_grammars[kind].open(begin_id, None)
        yield from self._finish_segment()

    def _in_segment(self, segment: OpenSegmentLike, token_id: int) -> Iterator[Event]:
        self._open = segment.accept(token_id)
        self._segment_ids.append(token_id)
        yield SegmentProgress(self._row, self._kinds[self._segment_ids[0]], len(self._segment_ids))
        yield from self._finish_segment()

    def _finish_segment(self) -> Iterator[Event]:
        """Yield the end of the segment, if its last id was its last."""
        if self._open is None:
            for segment in self._decode(self._segment_ids):
                self._document.append(segment)
                yield SegmentFinished(self._row, self._kinds[self._segment_ids[0]], segment)

    def _announced(self) -> Iterator[Event]:
        """Yield the beginning of the picture, as soon as its size is known."""
        if self._picture is not None and self._picture.grid is not None:
            yield ImageStarted(
                self._row, self._layout.pictures.num_codes(self._picture.grid), self._grid(self._picture)
            )

    def _text_delta(self, text: str) -> Iterator[Event]:
        if text:
            self._text += text
            yield TextDelta(self._row, text)

    def _finish_text(self) -> Iterator[Event]:
        yield from self._text_delta(self._decoder.flush())
        if self._text:
            self._document.append(text_package().Text(self._text))
            self._text = ""

    def _progress(self, picture: OpenPicture) -> ImageProgress:
        """Return the event of the newest code; ``picture`` is the state before it."""
        assert picture.grid is not None
        done, total = len(self._codes), self._layout.pictures.num_codes(picture.grid)
        due = self._preview_every and done % self._preview_every == 0 and done < total
        preview = self._preview(self._codes, self._grid(picture)) if due else None
        return ImageProgress(self._row, done, total, preview, tuple(self._codes) if due else ())

    def _finish_image(self, picture: OpenPicture) -> ImageFinished:
        image = self._draw(self._codes, self._grid(picture))
        self._document.append(self._segment(image, picture))
        return ImageFinished(self._row, image, tuple(self._codes))

    def _keep_unfinished(self, picture: OpenPicture) -> None:
        if picture.grid is None:
            # Nothing is known of it but that it began.
            self._document.append(text_package().Image(codes=()))
            return
        # A picture without its end may still have all its codes.
        make = self._draw if picture.codes_left == 0 else self._preview
        self._document.append(self._segment(make(self._codes, self._grid(picture)), picture))

    def _segment(self, image: PILImage, picture: OpenPicture) -> Any:
        grid = self._grid(picture)
        codes = tuple(self._codes)
        return text_package().Image(image, codes) if grid is None else text_package().Image(image, codes, tuple(grid))

    def _grid(self, picture: OpenPicture) -> Grid | None:
        """Return the grid of a picture; None where all pictures have one."""
        return picture.grid if self._layout.pictures.has_sizes else None
