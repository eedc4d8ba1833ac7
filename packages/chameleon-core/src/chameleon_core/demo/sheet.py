"""The contact sheet: one page that shows what the tour made."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
from PIL.Image import Image as PILImage

from chameleon_text import Document, Image, Text

if TYPE_CHECKING:
    from .tour import Caption, Report

WIDTH = 1344
MARGIN = 56
TILE = 192
GAP = 16
COLUMNS = 6
# As many as fit below a picture.
LETTERS = 24
LINE_HEIGHT = 30
PAPER = "#fbfaf7"
INK = "#1c1c1e"
MUTED = "#6d6d72"
LINE = "#d9d6cf"
ACCENT = "#2e6b4a"

Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


def draw_sheet(report: Report) -> PILImage:
    """The contact sheet of a tour."""
    sheet = _Sheet()
    sheet.line("Chameleon toolkit", size=40)
    sheet.line(
        f"One transformer reads and writes text and pictures. This one has {report.parameters / 1e6:.0f} million "
        "weights, and learned from emoji."
    )
    sheet.heading("It says what it sees")
    right = sum(caption.is_right for caption in report.captions)
    sheet.tiles(_captioned(caption) for caption in _spread(report.captions, 2 * COLUMNS))
    sheet.note(
        f"It never saw these drawings, only other styles of the same things. Of all {len(report.captions)} it names "
        f"{right} exactly; these stand at even distances among them."
    )
    sheet.heading("It draws what it is asked for")
    sheet.tiles((drawing.image, f"“{drawing.request}”") for drawing in report.drawings)
    sheet.note(
        "It learned no green hearts and no blue squares, in any style. Below, for each, the nearest in pixels of the "
        "drawings that it learned from."
    )
    sheet.tiles(
        (drawing.nearest.image, f"{drawing.nearest.name}\n{drawing.nearest.style}, {drawing.psnr:.1f} dB")
        for drawing in report.drawings
    )
    sheet.heading("It goes on with a document")
    sheet.document((report.prompt, INK), (report.continuation, ACCENT))
    sheet.note("Black is the prompt, green was generated.")
    return sheet.cropped()


def _captioned(caption: Caption) -> tuple[PILImage, str]:
    truth = "" if caption.is_right else f"it is: {caption.picture.name}"
    return caption.picture.image, f"“{caption.answer}”\n{truth or 'right'}"


def _spread(captions: Sequence[Caption], count: int) -> Sequence[Caption]:
    """So many of them, at even distances, so that nobody chose."""
    step = max(1, len(captions) // count)
    return captions[::step][:count]


class _Sheet:
    """A page that is written from top to bottom."""

    def __init__(self) -> None:
        self._image = PIL.Image.new("RGB", (WIDTH, 4000), PAPER)
        self._draw = PIL.ImageDraw.Draw(self._image)
        self._y = MARGIN

    def cropped(self) -> PILImage:
        """The page down to where it was written."""
        return self._image.crop((0, 0, WIDTH, self._y + MARGIN - GAP))

    def line(self, text: str, *, size: int = 19, colour: str = INK) -> None:
        """One line of text."""
        self._draw.text((MARGIN, self._y), text, fill=colour, font=_font(size))
        self._y += round(size * 1.5)

    def note(self, text: str) -> None:
        """A line in small print."""
        self.line(text, size=15, colour=MUTED)

    def heading(self, text: str) -> None:
        """A rule, and a title below."""
        self._y += 20
        self._draw.line((MARGIN, self._y, WIDTH - MARGIN, self._y), fill=LINE)
        self._y += 20
        self.line(text, size=25)
        self._y += 6

    def tiles(self, tiles: Iterable[tuple[PILImage, str]]) -> None:
        """Pictures in rows, each with lines below it."""
        tiles = list(tiles)
        for start in range(0, len(tiles), COLUMNS):
            bottom = self._y
            for column, (picture, caption) in enumerate(tiles[start : start + COLUMNS]):
                x = MARGIN + column * (TILE + GAP)
                self._image.paste(_tile(picture), (x, self._y))
                y = self._y + TILE + 8
                for place, text in enumerate(caption.split("\n")):
                    for line in textwrap.wrap(text, LETTERS):
                        self._draw.text((x, y), line, fill=MUTED if place else INK, font=_font(15))
                        y += 21
                bottom = max(bottom, y)
            self._y = bottom + GAP

    def document(self, *documents: tuple[Document, str]) -> None:
        """Documents one after the other, each in its colour; what follows a picture stands to its right."""
        font = _font(19)
        left, beside = MARGIN, 0  # where lines begin, down to where the last picture ends
        x = left
        for part, colour in ((part, colour) for document, colour in documents for part in _parts(document)):
            if not isinstance(part, str):
                self._y = max(self._y + (LINE_HEIGHT + 8 if x > left else 0), beside)
                self._image.paste(_tile(part), (MARGIN, self._y))
                frame = (MARGIN - 2, self._y - 2, MARGIN + TILE + 1, self._y + TILE + 1)
                self._draw.rectangle(frame, outline=colour, width=2)
                beside = self._y + TILE + GAP
                x = left = MARGIN + TILE + GAP
                continue
            text = _printable(part, font)
            if x > left and x + font.getlength(text) > WIDTH - MARGIN:
                self._y += LINE_HEIGHT
                left = MARGIN if self._y >= beside else left
                x = left
            self._draw.text((x, self._y), text, fill=colour, font=font)
            x += round(font.getlength(text))
        self._y = max(self._y + LINE_HEIGHT, beside) + GAP // 2


def _parts(document: Document) -> Iterator[str | PILImage]:
    """Words, each with the space behind it, and pictures."""
    for segment in document:
        if isinstance(segment, Text):
            yield from (f"{word} " for word in segment.text.split())
        elif isinstance(segment, Image):
            yield segment.image


def _tile(picture: PILImage) -> PILImage:
    """The middle square of a picture. One of few pixels keeps them as squares."""
    method = PIL.Image.Resampling.NEAREST if picture.width < TILE else PIL.Image.Resampling.LANCZOS
    return PIL.ImageOps.fit(picture.convert("RGB"), (TILE, TILE), method=method)


def _font(size: int) -> Font:
    return PIL.ImageFont.load_default(size)


def _printable(text: str, font: Font) -> str:
    """The text with a dot for each letter that the font has no shape for."""
    missing = bytes(font.getmask("\uffff"))
    return "".join("·" if bytes(font.getmask(letter)) == missing else letter for letter in text)
