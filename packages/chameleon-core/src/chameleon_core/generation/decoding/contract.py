"""The contract of decoding strategies, and of guesses of what a row writes next, which one pass of the model checks.

A guess never changes what is written: an id is a function of the ids before it and of the noise at its position, so the
engine takes what is chosen after right guesses and nothing after a wrong one. Such a strategy decides how many passes
that takes. The other kind, which searches among several hypotheses, is in ``search``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..processors import Kind, RowView
from .search import Searcher


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessView:
    """What a guesser knows of its row before a pass."""

    kind: Kind
    """"text" where ids of text come next, "image" where codes of a picture do."""
    ids: tuple[int, ...]
    """The row's ids, those of the prompt included."""
    codes: tuple[int, ...] = ()
    """The ids of the codes that the open picture has so far; none in text."""
    codes_per_row: int | None = None
    """How many codes a row of the picture has, so that above code k is code k − ``codes_per_row``; None in text."""
    count: int
    """How many guesses can be of use, ≥ 1."""


@runtime_checkable
class Guesser(Protocol):
    """What guesses for one row. Its state is the row's alone."""

    def guess(self, row: GuessView, /) -> Sequence[int]:
        """Return ids that may come next, one after the other; none where nothing is guessed. It changes no state.

        In a picture these are the ids of its next codes; what the grammar puts between codes isn't guessed. More than
        ``row.count`` are cut, and so is everything from the first id on that can't come there. Each costs about as much
        as an id of a prompt.
        """
        ...

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
        """Learn what a pass chose after ``row``.

        ``chosen[0]`` is what follows the ids of ``row``, and ``chosen[k]`` what follows the first k guesses, right or
        wrong. The row took the first ``accepted`` of them, ≥ 1. Not called once the row has ended.
        """
        ...


@runtime_checkable
class DecodingStrategy(Protocol):
    """How rows are decoded. ``chameleon_core.testing.DecodingStrategyConformance`` checks one.

    One strategy serves many rows, also at the same time, so what it knows of a row is in the row's guesser or searcher.
    """

    def start(self, row: RowView, /) -> Guesser | Searcher | None:
        """Return what guesses for a row, in text or in its pictures as ``row.kind`` says; None guesses nothing.

        For a row that writes text alone it may be what searches for the row.
        """
        ...
