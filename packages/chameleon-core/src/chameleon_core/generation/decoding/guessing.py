"""The engine's side of guesses: which of them are fed, and what is wrong with what a guesser returns."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from chameleon_backends.plugin_calls import described

from ...errors import BrokenPluginError, ChameleonCoreError
from ..processors.links import called
from ..rows import Row
from .contract import Guesser, GuessView


class RowGuesser:
    """A row's guesser, for text or for pictures.

    ``owner`` is what errors call its strategy, ``vocab_size`` the bound of ids.
    """

    def __init__(self, guesser: Guesser, owner: str, vocab_size: int) -> None:
        self.guesser = guesser
        self.owner = owner
        self.vocab_size = vocab_size
        self._view: GuessView | None = None

    def guess(self, row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids to feed on trial, and the offsets at which ids are chosen, from 0 before the first of them.

        Raises ``BrokenPluginError`` where the guesser raises, or returns something other than ids.
        """
        self._view = guess_view(row)
        if self._view is None:
            return (), (0,)
        guessed = called(self.owner, "guessing ids", self.guesser.guess, self._view)
        return feedable(row, self._checked(guessed)[: self._view.count])

    def observe(self, chosen: Sequence[int | ChameleonCoreError], accepted: int) -> None:
        """Tell the guesser what the pass after ``guess`` chose, and how many of these ids the row took."""
        if self._view is None:
            return
        # What can't be chosen after wrong guesses is no error of the row.
        bad = next((place for place, each in enumerate(chosen) if not isinstance(each, int)), len(chosen))
        called(self.owner, "observing what was chosen", self.guesser.observe, self._view, tuple(chosen[:bad]), accepted)

    def _checked(self, guessed: object) -> list[int]:
        if not isinstance(guessed, Sequence):
            raise BrokenPluginError(f"{self.owner} returned {described(guessed)} from guess; expected a list of ids.")
        for each in guessed:
            if type(each) is not int or not 0 <= each < self.vocab_size:
                raise BrokenPluginError(
                    f"{self.owner} guessed {each!r:.80}; expected ids, integers from 0 to {self.vocab_size - 1}."
                )
        return list(guessed)


def guess_view(row: Row) -> GuessView | None:
    """Return what a guesser is told of a row; None where no guess is of use."""
    if row.kind == "text":
        count = row.room - 1
        return GuessView(kind="text", ids=tuple(row.ids), count=count) if count > 0 else None
    if row.picture is None:
        return None
    grid, left = row.picture.grid, row.picture.codes_left
    if row.picture.next_ids is not None or grid is None or left is None or left <= 1:
        return None
    assert row.layout is not None
    ids = row.ids
    begin = len(ids) - 1 - ids[::-1].index(row.layout.begin_image_id)
    codes = tuple(token_id for token_id in ids[begin:] if token_id in row.layout.picture_ids)
    per_row = (len(codes) + left) // grid.height
    return GuessView(kind="image", ids=tuple(ids), codes=codes, codes_per_row=per_row, count=left - 1)


def feedable(row: Row, guesses: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the guesses that can come, with what the grammar puts between them, and the offsets of the choices.

    A guess after which nothing is chosen isn't fed.
    """
    trial = copy.copy(row)
    trial.new_ids = list(row.new_ids)
    start = len(trial.new_ids)
    offsets = [0]
    for guess in guesses:
        if not _may_come(trial, guess):
            break
        trial.accept(guess)
        while (forced := trial.forced_id) is not None:
            trial.accept(forced)
        if trial.finish_reason is not None or not _chooses_alike(row, trial):
            break
        offsets.append(len(trial.new_ids) - start)
    return tuple(trial.new_ids[start : start + offsets[-1]]), tuple(offsets)


def _may_come(row: Row, token_id: int) -> bool:
    if row.layout is None:
        return True
    if row.segment is not None:
        return token_id in row.layout.picture_ids
    return bool(row.layout.text_allowed_V[token_id])


def _chooses_alike(row: Row, trial: Row) -> bool:
    """Return whether the next choice of a trial is of the same kind as that of the row: text, or a code."""
    return trial.wants_code if row.wants_code else trial.segment is None
