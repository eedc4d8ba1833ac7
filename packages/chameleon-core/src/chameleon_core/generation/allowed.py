"""The ids that may come next in each state that a row may be in.

Shapes: A ids that may come next, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .rows import Row

MOST_KEPT = 64
"""How many sets of a few ids keep their copies: which sizes of pictures fit depends on the room that is left."""


class AllowedIds:
    """Ids of one kind that may come next, ascending for text and by code for pictures."""

    def __init__(self, ids_A: Tensor) -> None:
        self.ids_A = ids_A

    @cached_property
    def place(self) -> dict[int, int]:
        """The index of each id."""
        return {token_id: index for index, token_id in enumerate(self.ids_A.tolist())}


AllowedT = TypeVar("AllowedT", bound=AllowedIds)


class AllowedTable(Generic[AllowedT]):
    """What may come next in each state that rows of one vocabulary may be in.

    ``make`` makes it of the ids, int64 [A], and of whether they are most of the vocabulary's ``vocab_size``.
    """

    def __init__(self, vocab_size: int, make: Callable[[Tensor, bool], AllowedT]) -> None:
        self.vocab_size = vocab_size
        self._make = make
        self._text: dict[frozenset[int], AllowedT] = {}
        self._few: dict[tuple[int, ...], AllowedT] = {}
        self._codes: AllowedT | None = None

    def of(self, row: Row) -> AllowedT:
        """Return what may come next in a row."""
        next_ids = row.next_ids
        if next_ids is not None:
            return self._of_few(next_ids)
        return self._of_text(row) if row.segment is None else self._of_codes(row)

    def _of_codes(self, row: Row) -> AllowedT:
        """Return the picture codes 0 … Z − 1."""
        if self._codes is None:
            assert row.layout is not None
            self._codes = self._make(row.layout.code_to_id_Z, False)
        return self._codes

    def _of_text(self, row: Row) -> AllowedT:
        """Return the ids that text may hold or that may end it or begin a segment; all where there is no layout."""
        layout = row.layout
        if layout is None:
            if frozenset() not in self._text:
                self._text[frozenset()] = self._make(torch.arange(self.vocab_size), True)
            return self._text[frozenset()]
        ends = frozenset(token_id for token_id in row.stop_ids | row.also_text if not layout.text_allowed_V[token_id])
        ends = ends.union(row.beginnings)
        if ends not in self._text:
            allowed_V = layout.text_allowed_V.clone()
            allowed_V[[*ends]] = True
            ids_A = allowed_V.nonzero()[:, 0]
            self._text[ends] = self._make(ids_A, 2 * len(ids_A) > self.vocab_size)
        return self._text[ends]

    def _of_few(self, ids: tuple[int, ...]) -> AllowedT:
        if ids not in self._few:
            if len(self._few) == MOST_KEPT:
                self._few.clear()
            self._few[ids] = self._make(torch.tensor(ids), False)
        return self._few[ids]
