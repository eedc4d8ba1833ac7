"""From the ids of one row to its events, and to its document.

Shapes: N codes a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..layout import TokenLayout
from ..optional_packages import text_package
from ..protocols import StreamDecoderLike
from .events import Event, Finished, ImageFinished, ImageProgress, ImageStarted, Reason, TextDelta

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document


class RowReader:
    """Turns one row's new ids, one at a time, into events, and at the end into a document.

    ``draw`` makes a picture of N codes, ``preview`` one of fewer, every ``preview_every`` codes (0: never).
    ``document`` is the empty document that it fills.
    """

    def __init__(
        self,
        row: int,
        *,
        layout: TokenLayout,
        decoder: StreamDecoderLike,
        draw: Callable[[Sequence[int]], PILImage],
        preview: Callable[[Sequence[int]], PILImage],
        document: Document,
        preview_every: int = 0,
    ) -> None:
        self._row = row
        self._layout = layout
        self._decoder = decoder
        self._draw = draw
        self._preview = preview
        self._preview_every = preview_every
        self._document = document
        self._text = ""
        self._codes: list[int] | None = None

    def push(self, token_id: int) -> Iterator[Event]:
        """Yield the events of the next id; ids that are neither text nor a picture's have none."""
        if self._codes is not None:
            if token_id == self._layout.end_image_id:
                yield self._finish_image(self._codes)
            else:
                self._codes.append(int(self._layout.id_to_code_V[token_id]))
                yield self._progress(self._codes)
        elif token_id == self._layout.begin_image_id:
            yield from self._finish_text()
            self._codes = []
            yield ImageStarted(self._row, self._layout.tokens_per_image)
        elif self._layout.text_allowed_V[token_id]:
            yield from self._text_delta(self._decoder.push(token_id))

    def finish(self, reason: Reason) -> Iterator[Event]:
        """Yield the row's last events. The reader can't be used afterwards."""
        yield from self._finish_text()
        if self._codes is not None:
            self._keep_unfinished(self._codes)
        yield Finished(self._row, reason, self._document)

    def _text_delta(self, text: str) -> Iterator[Event]:
        if text:
            self._text += text
            yield TextDelta(self._row, text)

    def _finish_text(self) -> Iterator[Event]:
        yield from self._text_delta(self._decoder.flush())
        if self._text:
            self._document.append(text_package().Text(self._text))
            self._text = ""

    def _progress(self, codes: list[int]) -> ImageProgress:
        done, total = len(codes), self._layout.tokens_per_image
        due = self._preview_every and done % self._preview_every == 0 and done < total
        return ImageProgress(self._row, done, total, self._preview(codes) if due else None)

    def _finish_image(self, codes: list[int]) -> ImageFinished:
        image = self._draw(codes)
        self._document.append(text_package().Image(image, tuple(codes)))
        self._codes = None
        return ImageFinished(self._row, image, tuple(codes))

    def _keep_unfinished(self, codes: list[int]) -> None:
        # A picture without its end may still have all its codes.
        image = self._draw(codes) if len(codes) == self._layout.tokens_per_image else self._preview(codes)
        self._document.append(text_package().Image(image, tuple(codes)))
