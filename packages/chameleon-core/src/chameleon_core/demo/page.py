"""A page that is written from top to bottom: headings, text, and rows of tiles. Lengths are in pixels.

Shapes: H W pixels of the page, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFont
from PIL.Image import Image as PILImage

WIDTH = 1360
MARGIN = 52
CONTENT = WIDTH - 2 * MARGIN
COLUMNS = 6
GAP = 16
TILE = (CONTENT - (COLUMNS - 1) * GAP) // COLUMNS
SMALL_TILE = 76

TITLE_SIZE = 42
HEADING_SIZE = 29
TEXT_SIZE = 20
LEADING = 1.42
"""The height of a line, as a multiple of the size of its letters."""

PAPER = "#fbfaf7"
NEARLY_WHITE = 248
"""The least level of all channels; the paper has one below."""
INK = "#1c1c1e"
MUTED = "#66666b"
RULE = "#d9d6cf"
GREEN = "#25804f"
RED = "#b8382e"

Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Line:
    """A line under a tile; long ones are wrapped."""

    text: str
    colour: str = INK
    is_right: bool | None = None
    """Draws a tick or a cross before it."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture with lines below it."""

    picture: PILImage
    lines: Sequence[Line]
    small: PILImage | None = None
    """A second, smaller picture below the lines."""
    small_lines: Sequence[Line] = ()
    """What stands right of the smaller picture."""


class Page:
    """A page, as long as what is written on it."""

    def __init__(self) -> None:
        self._image = PIL.Image.new("RGB", (WIDTH, 6000), PAPER)
        self._draw = PIL.ImageDraw.Draw(self._image)
        self.y = MARGIN
        """Where the next thing begins."""

    def finished(self) -> PILImage:
        """Return the page down to where it was written, in 256 colours: less than half the bytes, and as clear."""
        page = self._image.crop((0, 0, WIDTH, self.y + MARGIN))
        pixels_HWC = np.array(page)
        # Grounds that are nearly white would be dithered visibly.
        pixels_HWC[pixels_HWC.min(axis=2) >= NEARLY_WHITE] = 255
        page = PIL.Image.fromarray(pixels_HWC)
        exact = [PIL.ImageColor.getrgb(colour) for colour in (PAPER, "white")]
        colours = page.quantize(256 - len(exact)).getpalette() or []
        palette = PIL.Image.new("P", (1, 1))
        palette.putpalette([*colours, *(level for colour in exact for level in colour)])
        indices_HW = np.array(page.quantize(palette=palette, dither=PIL.Image.Dither.FLOYDSTEINBERG))
        # Pillow takes a colour near the nearest one, which would tint the two grounds.
        for index, colour in enumerate(exact, 256 - len(exact)):
            indices_HW[(pixels_HWC == colour).all(axis=2)] = index
        finished = PIL.Image.fromarray(indices_HW)
        finished.putpalette(palette.getpalette() or [])
        return finished

    def space(self, height: int) -> None:
        """Leave a space."""
        self.y += height

    def title(self, text: str) -> None:
        """Write the page's title."""
        self.write(text, MARGIN, self.y, size=TITLE_SIZE)
        self.y += round(TITLE_SIZE * LEADING)

    def heading(self, text: str) -> None:
        """Draw a rule, with a heading below it."""
        self.space(30)
        self._draw.line((MARGIN, self.y, WIDTH - MARGIN, self.y), fill=RULE, width=2)
        self.space(24)
        self.write(text, MARGIN, self.y, size=HEADING_SIZE)
        self.y += round(HEADING_SIZE * LEADING) + 2

    def paragraph(self, text: str, *, colour: str = MUTED) -> None:
        """Write text as wide as the page."""
        for line in wrapped(text, CONTENT):
            self.write(line, MARGIN, self.y, colour=colour)
            self.y += line_height()

    def tiles(self, tiles: Sequence[Tile]) -> None:
        """Draw tiles in rows of ``COLUMNS``."""
        for start in range(0, len(tiles), COLUMNS):
            row = list(enumerate(tiles[start : start + COLUMNS]))
            for column, tile in row:
                self.picture(tile.picture, _left(column), self.y, TILE)
            self.y += TILE + 9
            bottom = max(self._lines(tile.lines, _left(column), self.y, TILE) for column, tile in row)
            if any(tile.small is not None for _, tile in row):
                top = bottom + 8
                bottom = top + SMALL_TILE
                for column, tile in row:
                    if tile.small is not None:
                        self.picture(tile.small, _left(column), top, SMALL_TILE)
                    left = _left(column) + SMALL_TILE + 12
                    bottom = max(bottom, self._lines(tile.small_lines, left, top, TILE - SMALL_TILE - 12))
            self.y = bottom + GAP

    def picture(self, picture: PILImage, left: int, top: int, side: int, *, frame: str | None = None) -> None:
        """Draw a picture, scaled smoothly, in a thin frame or one of a colour."""
        scaled = picture.convert("RGB").resize((side, side), PIL.Image.Resampling.BICUBIC)
        self._image.paste(scaled, (left, top))
        width = 1 if frame is None else 4
        box = (left - width, top - width, left + side + width - 1, top + side + width - 1)
        self._draw.rectangle(box, outline=frame or RULE, width=width)

    def write(self, text: str, left: int, top: int, *, size: int = TEXT_SIZE, colour: str = INK) -> None:
        """Write one line of text."""
        self._draw.text((left, top), text, fill=colour, font=font(size))

    def _lines(self, lines: Sequence[Line], left: int, top: int, width: int) -> int:
        """Write lines of at most a width and return where they end."""
        for line in lines:
            indent = 0
            if line.is_right is not None:
                self._mark(left, top + 4, is_right=line.is_right)
                indent = 24
            for part in wrapped(line.text, width - indent):
                self.write(part, left + indent, top, colour=line.colour)
                top += line_height()
        return top

    def _mark(self, left: int, top: int, *, is_right: bool) -> None:
        """Draw a tick or a cross, which the font doesn't have."""
        if is_right:
            places = [(left + 1, top + 9), (left + 6, top + 14), (left + 15, top + 2)]
            self._draw.line(places, fill=GREEN, width=3, joint="curve")
        else:
            self._draw.line((left + 2, top + 2, left + 14, top + 14), fill=RED, width=3)
            self._draw.line((left + 2, top + 14, left + 14, top + 2), fill=RED, width=3)


def _left(column: int) -> int:
    """Return where a column begins."""
    return MARGIN + column * (TILE + GAP)


@functools.cache
def font(size: int) -> Font:
    """Return Pillow's own font in a size."""
    return PIL.ImageFont.load_default(size)


def text_width(text: str, size: int = TEXT_SIZE) -> int:
    """Return the width of a line of text."""
    return round(font(size).getlength(text))


def line_height(size: int = TEXT_SIZE) -> int:
    """Return the distance between two lines."""
    return round(size * LEADING)


def wrapped(text: str, width: int, size: int = TEXT_SIZE) -> list[str]:
    """Break a text between words into lines of at most a width; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
