"""What a notebook shows of documents: HTML that needs no other file, and no more of it than a notebook should keep.

It sets no colour of text or ground, so that it reads on a light page as on a dark one.
"""

from __future__ import annotations

import base64
import struct

LONGEST_SIDE = 512
"""Pictures that have a longer side, in pixels, are reduced to it."""
SHORTEST_SIDE = 128
"""Smaller pictures, in pixels, are shown enlarged, by an integer."""
MOST_CHARACTERS = 20_000
"""How many characters of text are shown of a value."""
MOST_PICTURES = 64
"""How many pictures are shown of a value."""
MOST_ENTRIES = 32
"""How many entries of a batch are shown."""

_TEXT = "white-space: pre-wrap"
_PICTURE = "max-width: 100%; vertical-align: middle; margin: 2px 4px"
_GRID = "display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start"
_ENTRY = "margin: 0; padding: 8px; max-width: 36em; border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 6px"


class HtmlWriter:
    """Writes texts and pictures as HTML until there is enough of either; what follows is named, and not shown."""

    def __init__(self) -> None:
        self._characters = MOST_CHARACTERS
        self._pictures = MOST_PICTURES

    def text(self, text: str) -> str:
        """Return a text, as it is, as HTML."""
        shown = text[: self._characters]
        self._characters -= len(shown)
        left_out = len(text) - len(shown)
        more = f"<em> … {left_out:,} more character{'s' * (left_out > 1)}</em>" if left_out else ""
        return f'<span style="{_TEXT}">{escaped(shown)}{more}</span>'

    def picture(self, png: bytes, description: str) -> str:
        """Return a picture, a PNG file, as HTML."""
        if not self._pictures:
            return self.name(description)
        self._pictures -= 1
        width, height = struct.unpack(">II", png[16:24])  # of the header, which is the first chunk of any PNG
        factor = max(1, SHORTEST_SIDE // max(width, height))
        data = base64.b64encode(png).decode("ascii")
        return (
            f'<img alt="{escaped(description)}" width="{width * factor}" height="{height * factor}" '
            f'style="{_PICTURE}" src="data:image/png;base64,{data}">'
        )

    def name(self, description: str) -> str:
        """Return the description of what has no pixels to show, as HTML."""
        return f"<code>{escaped(description)}</code>"


def escaped(text: str) -> str:
    """Return a text as HTML shows it, in the content of an element and in the value of an attribute."""
    import html  # its tables of entities are needed by nobody else

    return html.escape(text)


def grid_of(entries: list[str], *, left_out: int) -> str:
    """Return the HTML of several entries beside each other, numbered as Python counts them."""
    figures = "".join(
        f'<figure style="{_ENTRY}"><figcaption style="opacity: 0.7; font-size: 85%">{number}</figcaption>'
        f"{entry}</figure>"
        for number, entry in enumerate(entries)
    )
    more = f"<p><em>… {left_out:,} more</em></p>" if left_out else ""
    return f'<div style="{_GRID}">{figures}</div>{more}'
