"""Beginnings of prompts that requests share: their keys and values are computed once and copied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .decoder import LaneCacheLike

BLOCK = 16
"""How many ids are kept or dropped together."""

PrefixKey = tuple[int, tuple[int, ...]]
"""The number of the block before, 0 for the first, and the ids of the block."""


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    """Unique, and never used again, so that what continued a dropped block is never found under another."""
    positions: Any
    """What ``copy_out`` of the cache returned."""


class PrefixCache:
    """Keys and values of blocks of ids, each found by the block before it and its own ids.

    ``max_positions`` bounds how many positions are kept; those that weren't used for longest are dropped first.
    """

    def __init__(self, cache: LaneCacheLike[Any], max_positions: int) -> None:
        self.cache = cache
        self.max_blocks = max_positions // BLOCK
        self._blocks: OrderedDict[PrefixKey, _Block] = OrderedDict()
        self._computing: set[PrefixKey] = set()
        self._next_number = 1

    def restore(self, lane: Any, ids: Sequence[int]) -> int:
        """Append what is known of the beginning of ``ids`` to an empty lane; return how many positions that is.

        The last id is never among them, because its hidden state is needed.
        """
        known = [self._blocks[key] for key, _ in self._known(ids)]
        for block in known:
            self.cache.copy_in(lane, block.positions)
        return len(known) * BLOCK

    def store(self, lane: Any, ids: Sequence[int]) -> None:
        """Keep the positions of ``ids``, which a lane begins with."""
        parent = 0
        for start in range(0, self._usable(ids), BLOCK):
            key = (parent, tuple(ids[start : start + BLOCK]))
            if key not in self._blocks:
                self._blocks[key] = _Block(self._next_number, self.cache.copy_out(lane, start, start + BLOCK))
                self._next_number += 1
            self._blocks.move_to_end(key)
            parent = self._blocks[key].number
        while len(self._blocks) > self.max_blocks:
            self._blocks.popitem(last=False)

    def begin(self, ids: Sequence[int]) -> PrefixKey | None:
        """Note that a row computes the beginning of ``ids`` now; return what to ``finish``, None where all is known."""
        key = self._first_unknown(ids)
        if key is not None:
            self._computing.add(key)
        return key

    def finish(self, key: PrefixKey) -> None:
        """Note that the row that began is done with it, or has stopped."""
        self._computing.discard(key)

    def is_being_computed(self, ids: Sequence[int]) -> bool:
        """Return whether a row computes a beginning of ``ids`` that isn't known yet."""
        return bool(self._computing) and self._first_unknown(ids) in self._computing

    def _usable(self, ids: Sequence[int]) -> int:
        return (len(ids) - 1) // BLOCK * BLOCK if self.max_blocks else 0

    def _known(self, ids: Sequence[int]) -> Iterator[tuple[PrefixKey, int]]:
        parent = 0
        for start in range(0, self._usable(ids), BLOCK):
            key = (parent, tuple(ids[start : start + BLOCK]))
            if key not in self._blocks:
                return
            self._blocks.move_to_end(key)
            parent = self._blocks[key].number
            yield key, parent

    def _first_unknown(self, ids: Sequence[int]) -> PrefixKey | None:
        known = list(self._known(ids))
        start = len(known) * BLOCK
        if start >= self._usable(ids):
            return None
        return known[-1][1] if known else 0, tuple(ids[start : start + BLOCK])
