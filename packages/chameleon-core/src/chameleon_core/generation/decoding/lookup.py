"""Prompt lookup for text: what followed the last ids earlier in the row is guessed to follow again.

For answers that repeat their prompt, as corrections, summaries and lists do (arXiv 2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from ..processors import RowView
from .contract import GuessView


class Lookup:
    """Guesses the ``window`` ids after the latest earlier place of the row's last ``match`` ids, or of fewer.

    ``window`` is 1…1,024, 8 by default; ``match`` 1…16, 3 by default. Pictures are decoded plainly.
    """

    def __init__(self, window: int = 8, match: int = 3) -> None:
        for name, value, highest in (("window", window, 1024), ("match", match, 16)):
            if type(value) is not int or not 1 <= value <= highest:
                raise ConfigError(
                    f"{name} of the decoding strategy 'lookup' must be an integer from 1 to {highest}; got {value!r}."
                )
        self.window = window
        self.match = match

    def start(self, row: RowView, /) -> LookupGuesser | None:
        """Return the guesser of a row's text."""
        return LookupGuesser(self.window, self.match) if row.kind == "text" else None


class LookupGuesser:
    """Knows where each sequence of the row ended last, up to ``match`` ids long."""

    def __init__(self, window: int, match: int) -> None:
        self.window = window
        self.match = match
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = 0

    def guess(self, row: GuessView, /) -> Sequence[int]:
        """Return what followed the longest sequence of last ids that came before."""
        self._learn(row.ids)
        for length in range(min(self.match, len(row.ids)), 0, -1):
            end = self._ends.get(row.ids[-length:])
            if end is not None:
                return row.ids[end : end + min(self.window, row.count)]
        return ()

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
        """Learn nothing: the next guess reads the row itself."""

    def _learn(self, ids: tuple[int, ...]) -> None:
        """Note where sequences end before the last id, whose own end is what is looked up."""
        for end in range(self._known + 1, len(ids)):
            for length in range(1, min(self.match, end) + 1):
                self._ends[ids[end - length : end]] = end
        self._known = max(self._known, len(ids) - 1)
