"""Jacobi decoding of pictures: what a pass chose after wrong guesses is the next pass's guess.

With noise by position, a code that depends little on its neighbours is chosen alike before and after they are right, so
that most passes find several codes (speculative Jacobi decoding, arXiv 2410.01699, with the same noise in each pass).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from ..processors import RowView
from .contract import GuessView

MAX_WINDOW = 1024


class Jacobi:
    """Guesses the next ``window`` codes of a picture, 1…1,024; 12 by default. Text is decoded plainly."""

    def __init__(self, window: int = 12) -> None:
        if type(window) is not int or not 1 <= window <= MAX_WINDOW:
            raise ConfigError(
                f"window of the decoding strategy 'jacobi' must be an integer from 1 to {MAX_WINDOW}; got {window!r}."
            )
        self.window = window

    def start(self, row: RowView, /) -> JacobiGuesser | None:
        """Return the guesser of a row's pictures."""
        return JacobiGuesser(self.window) if row.kind == "image" else None


class JacobiGuesser:
    """Guesses what the last pass chose, and for codes that no pass has seen the code above or before."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._count = 0
        self._chosen: tuple[int, ...] = ()

    def guess(self, row: GuessView, /) -> list[int]:
        """Return up to ``window`` codes."""
        known = self._chosen if self._count == len(row.codes) else ()
        count = min(self.window, row.count)
        codes = [*row.codes, *known[:count]]
        per_row = row.codes_per_row or 1
        while codes and len(codes) < len(row.codes) + count:
            codes.append(codes[-per_row if len(codes) >= per_row else -1])
        return codes[len(row.codes) :]

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
        """Keep what was chosen after the first wrong guess."""
        self._chosen = tuple(chosen[accepted:])
        self._count = len(row.codes) + accepted
