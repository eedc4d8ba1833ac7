"""Beginnings of prompts that requests share: their keys and values are computed once and copied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .decoder import LaneCacheLike

BLOCK = 16
"""How many ids are kept or dropped together; the last ones of a prompt may be fewer."""

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
        self.max_positions = max_positions
        self._blocks: OrderedDict[PrefixKey, _Block] = OrderedDict()
        self._num_positions = 0
        self._computing: set[PrefixKey] = set()
        self._next_number = 1

    def restore(self, lane: Any, ids: Sequence[int]) -> int:
        """Append what is known of the beginning of ``ids`` to an empty lane; return how many positions that is.

        The last id is never among them, because its hidden state is needed.
        """
        for key in self._known(ids):
            self.cache.copy_in(lane, self._blocks[key].positions)
        if lane.length == len(ids):
            self.cache.truncate(lane, len(ids) - 1)
        return int(lane.length)

    def store(self, lane: Any, ids: Sequence[int]) -> None:
        """Keep the positions of ``ids``, which a lane begins with."""
        parent = 0
        for start, block_ids in self._in_blocks(ids):
            key = (parent, block_ids)
            if key not in self._blocks:
                end = start + len(block_ids)
                self._blocks[key] = _Block(self._next_number, self.cache.copy_out(lane, start, end))
                self._next_number += 1
                self._num_positions += len(block_ids)
            self._blocks.move_to_end(key)
            parent = self._blocks[key].number
        while self._num_positions > self.max_positions:
            (_, dropped), _ = self._blocks.popitem(last=False)
            self._num_positions -= len(dropped)

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
        """Return whether a row computes a block of ``ids`` that isn't known yet; for fewer ids waiting doesn't pay."""
        key = self._first_unknown(ids) if self._computing else None
        return key is not None and len(key[1]) == BLOCK and key in self._computing

    def _known(self, ids: Sequence[int]) -> Iterator[PrefixKey]:
        """Yield the keys of what is known of the beginning of ``ids``, and count it as used."""
        parent = 0
        for _, block_ids in self._in_blocks(ids):
            # The last block of another prompt may be shorter.
            keys = ((parent, block_ids[:length]) for length in range(len(block_ids), 0, -1))
            key = next((key for key in keys if key in self._blocks), None)
            if key is None:
                return
            self._blocks.move_to_end(key)
            yield key
            if len(key[1]) < BLOCK:
                return
            parent = self._blocks[key].number

    def _first_unknown(self, ids: Sequence[int]) -> PrefixKey | None:
        """Return the key of the first block of a prompt that isn't known as a whole."""
        parent = 0
        for _, block_ids in self._in_blocks(ids):
            if (parent, block_ids) not in self._blocks:
                return parent, block_ids
            parent = self._blocks[parent, block_ids].number
        return None

    def _in_blocks(self, ids: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the blocks of a prompt, each with where it starts; none where nothing is kept."""
        for start in range(0, len(ids) if self.max_positions else 0, BLOCK):
            yield start, tuple(ids[start : start + BLOCK])
