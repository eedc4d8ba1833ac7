"""The contact sheet: one page that shows what the tour made."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
from PIL.Image import Image as PILImage

from chameleon_text import Document, Image, Text

if TYPE_CHECKING:
    from .tour import Reading, Report

WIDTH = 1440
MARGIN = 56
TILE = 208
GAP = 16
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
        "Real photographs and text through the whole path. Nothing here is trained: codes are colours set by hand,"
    )
    sheet.line("and the transformer's weights are random, so that what it writes is noise.")
    sheet.heading("Picture to codes to picture")
    sheet.tiles(tile for reading in report.readings for tile in _tiles(reading))
    sheet.note("Colours in the middle tell codes apart and mean nothing else.")
    sheet.heading("A document, continued")
    sheet.document((report.prompt, INK), (report.generated, ACCENT))
    sheet.note("Black is the prompt, green was generated; letters that the font lacks are dots.")
    sheet.heading("A picture with guidance")
    sheet.tiles(
        [
            (report.readings[0].photograph.image, f"the prompt:\n{_quoted(report.guided_prompt)}"),
            (report.guided.image, f"{report.num_codes + 2:,} ids\n{report.guided_speed:,.0f} a second"),
        ]
    )
    return sheet.cropped()


def code_map(reading: Reading) -> PILImage:
    """Each code as a colour of its own, which says nothing but whether codes are the same."""
    height, width = reading.latent_size
    image = PIL.Image.new("RGB", (width, height))
    # Steps of the golden ratio around the circle keep colours of neighbouring codes apart.
    colours = (
        colorsys.hls_to_rgb(code * 0.6180339887 % 1, 0.35 + 0.3 * (code * 0.754877666 % 1), 0.55)
        for code in reading.codes
    )
    image.putdata([tuple(round(255 * part) for part in colour) for colour in colours])
    return image


def _tiles(reading: Reading) -> list[tuple[PILImage, str]]:
    photograph = reading.photograph
    return [
        (photograph.image, f"{photograph.title}\n{photograph.credit}"),
        (code_map(reading), f"{len(reading.codes):,} codes\n{len(set(reading.codes))} different ones"),
        (reading.drawn, f"drawn from the codes\nPSNR {reading.psnr:.1f} dB"),
    ]


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
        """Pictures in a row, each with lines below it."""
        bottom = self._y
        for column, (picture, caption) in enumerate(tiles):
            x = MARGIN + column * (TILE + GAP)
            self._image.paste(_tile(picture), (x, self._y))
            for row, text in enumerate(caption.split("\n")):
                y = self._y + TILE + 8 + row * 21
                self._draw.text((x, y), text, fill=MUTED if row else INK, font=_font(15))
                bottom = max(bottom, y + 21)
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


def _quoted(document: Document) -> str:
    """The text of a document, with an ellipsis for each picture."""
    return "“" + "".join(segment.text if isinstance(segment, Text) else "…" for segment in document).strip() + "”"


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
