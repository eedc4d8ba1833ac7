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

# Where few guesses are right, as at temperature 1, a smaller window costs a CPU less and takes hardly more passes. The
# numbers are those of the embedded model (benchmarks/decoding.py), whose passes find 2 codes at its defaults, and 1.4
# at temperature 1 without guidance.
_FEW_FOUND, _MANY_FOUND = 1.3, 1.6
"""Mean numbers of codes that passes find: up to the first the window is the smallest, from the second on whole."""
_MIN_WINDOW = 2
_MEAN_AT_FIRST = 2.0
_MEMORY = 0.94
"""How much of the mean is that of the passes before."""


class Jacobi:
    """Guesses the next codes of a picture. Text is decoded plainly.

    ``window`` is how many codes are guessed at most, 1…1,024; 12 by default. Unless ``adaptive`` is False fewer are
    guessed while few of them are right, which suits a CPU; a GPU checks many guesses in the time of one.
    """

    def __init__(self, window: int = 12, *, adaptive: bool = True) -> None:
        if type(window) is not int or not 1 <= window <= MAX_WINDOW:
            raise ConfigError(
                f"window of the decoding strategy 'jacobi' must be an integer from 1 to {MAX_WINDOW}; got {window!r}."
            )
        if type(adaptive) is not bool:
            raise ConfigError(f"adaptive of the decoding strategy 'jacobi' must be True or False; got {adaptive!r}.")
        self.window = window
        self.adaptive = adaptive

    def start(self, row: RowView, /) -> JacobiGuesser | None:
        """Return the guesser of a row's pictures."""
        return JacobiGuesser(self.window, adaptive=self.adaptive) if row.kind == "image" else None


class JacobiGuesser:
    """Guesses what the last pass chose, and for codes that no pass has seen the code above or before."""

    def __init__(self, window: int, *, adaptive: bool = True) -> None:
        self.window = window
        self.adaptive = adaptive
        self._mean_found = _MEAN_AT_FIRST
        self._count = 0
        self._chosen: tuple[int, ...] = ()

    def guess(self, row: GuessView, /) -> list[int]:
        """Return up to ``window`` codes."""
        known = self._chosen if self._count == len(row.codes) else ()
        count = min(self.window, row.count)
        if self.adaptive:
            share = (self._mean_found - _FEW_FOUND) / (_MANY_FOUND - _FEW_FOUND)
            count = min(count, max(_MIN_WINDOW, round(share * self.window)))
        codes = [*row.codes, *known[:count]]
        per_row = row.codes_per_row or 1
        while codes and len(codes) < len(row.codes) + count:
            codes.append(codes[-per_row if len(codes) >= per_row else -1])
        return codes[len(row.codes) :]

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
        """Keep what was chosen after the first wrong guess."""
        self._chosen = tuple(chosen[accepted:])
        self._count = len(row.codes) + accepted
        if len(chosen) > 1:  # a pass without guesses says nothing of them
            self._mean_found = _MEMORY * self._mean_found + (1 - _MEMORY) * accepted
