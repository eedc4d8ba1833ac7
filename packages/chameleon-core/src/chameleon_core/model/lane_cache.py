"""The cache of generation: keys and values of lanes that have lengths of their own.

Shapes: L lanes of a group, T query length, S key length, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from chameleon_backends.plugin_calls import described, wrong

from .._boundary import translates_errors
from .._cpu_caches import read_first
from ..config import ChameleonConfig
from ..registry import CACHES_HOOK, REGISTRY
from .rope import RotaryTable

# The smallest capacity of a lane. Capacities are this times 1, 1.5, 2, 3, 4, 6, 8, …, so that few differ and a lane
# takes at most half as much again as it needs.
MIN_CAPACITY = 64
# What a lane of a small model takes at least where room isn't bounded, and the most numbers that this may be: 2 MiB of
# float32.
WIDE_CAPACITY = 256
MAX_WIDE_NUMBERS = 2**19
# Several lanes are read before attention reads them a head at a time, where a core's own cache holds what is read.
MIN_READ_LANES = 4
MAX_READ_NUMBERS = 2**18


@dataclass(slots=True, eq=False)
class CachedLane:
    """One lane of the cache: the keys and values of its first ``length`` positions."""

    slab: Slab = field(repr=False)
    """Where it is stored, beside other lanes of the same capacity."""
    slot: int
    """Its row in the slab. It changes when another lane of the slab is freed."""
    length: int = 0
    """How many positions are stored."""

    @property
    def capacity(self) -> int:
        """How many positions it has room for before it moves to a larger slab."""
        return self.slab.capacity


@dataclass(slots=True, eq=False)
class Slab:
    """The lanes of one capacity, side by side, so that one call of a kernel reads several."""

    capacity: int
    """Positions of each lane."""
    lanes: list[CachedLane]
    """The lanes, by slot."""
    layers: list[tuple[Tensor, ...]]
    """For each layer what the cache stores: tensors [2, lanes, K, capacity, …]; empty before the first positions."""

    @property
    def rows(self) -> int:
        """How many rows are to be allocated."""
        return len(self.lanes)

    def copy_lane(self, source: CachedLane, slot: int) -> None:
        """Copy what a lane has stored, here or in another slab, to a slot of this one."""
        for layer, parts in enumerate(source.slab.layers):
            if not parts:
                continue
            if not self.layers[layer]:
                self.layers[layer] = tuple(self._empty(part) for part in parts)
            self._make_room(layer)
            for target, part in zip(self.layers[layer], source.slab.layers[layer], strict=True):
                target[:, slot, :, : source.length] = part[:, source.slot, :, : source.length]

    def _make_room(self, layer: int) -> None:
        """Allocate rows for all lanes."""
        parts = self.layers[layer]
        if parts[0].shape[1] < self.rows:
            self.layers[layer] = tuple(_resized(part, self.rows) for part in parts)

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros and not empty memory: what lies beyond a lane's length is masked, but NaN times a weight of 0 is NaN.
        return like.new_zeros(2, self.rows, like.shape[2], self.capacity, *like.shape[4:])

    def shrink(self) -> None:
        """Give memory back once half of the rows are unused."""
        for layer, parts in enumerate(self.layers):
            if parts and not self.lanes:
                self.layers[layer] = ()
            elif parts and 2 * len(self.lanes) <= parts[0].shape[1]:
                self.layers[layer] = tuple(part[:, : len(self.lanes)].clone() for part in parts)


class RoomySlab(Slab):
    """Rows for a power of two of lanes, which stay where they are until the last lane has left."""

    @property
    def rows(self) -> int:
        """How many rows there are memory for, or are to be."""
        allocated = max((parts[0].shape[1] for parts in self.layers if parts), default=1)
        return max(1 << max(len(self.lanes) - 1, 0).bit_length(), allocated)

    def shrink(self) -> None:
        """Give memory back once no lane is left."""
        if not self.lanes:
            super().shrink()


@dataclass(frozen=True, slots=True, eq=False)
class LaneGroup:
    """Neighbouring lanes of a slab that one call of a kernel serves: each gets T new positions."""

    slab: Slab
    first_slot: int
    """The slot of the first lane; the others follow."""
    lengths: tuple[int, ...]
    """How many positions each lane has stored before this pass: all the same unless T is 1."""
    count: int
    """T, the new positions of each lane."""
    key_end_L: Tensor | None
    """int64, the positions of each lane with its new one; None where they are all the same."""

    @property
    def key_length(self) -> int:
        """S, the positions of the longest lane with its new ones."""
        return max(self.lengths) + self.count


class PackedPass(Protocol):
    """What runs passes over lanes in the place of a model's layers; ``PackedLayers`` is one."""

    def takes(self, weight: Tensor, /) -> bool:
        """Return whether it can run a pass of a model with this weight."""
        ...

    def run(self, hidden_ME: Tensor, context: Any, /) -> Tensor:
        """Return the final hidden states [M, E] of embeddings. M positions of all lanes, E hidden width."""
        ...


class LaneCache:
    """The keys and values of every layer for lanes that join, grow, fork, shrink and leave at any time.

    Lanes of about the same capacity lie in one ``Slab``. A lane that outgrows it moves to a larger one, so that the
    memory and the work of a lane depend on its own length and not on the longest.

    Subclasses change what is stored by overriding ``encode`` and ``decode``.
    """

    packed: PackedPass | None = None
    """The model's layers in fewer kernels, which passes over the lanes run instead where that is faster."""
    min_capacity = MIN_CAPACITY
    """The capacity of the smallest lanes."""

    _slab_type = Slab
    _wide_capacity = MIN_CAPACITY

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.rotary = RotaryTable()
        self._slabs: dict[int, Slab] = {}
        # Of the groups of the pass that runs.
        self._placed: dict[LaneGroup, tuple[int, Tensor]] = {}

    def __repr__(self) -> str:
        lanes = sum(len(slab.lanes) for slab in self._slabs.values())
        return f"{type(self).__name__}(layers={self.num_layers}, lanes={lanes}, positions={self.positions})"

    @property
    def positions(self) -> int:
        """How many positions the lanes have room for, together."""
        return sum(len(slab.lanes) * slab.capacity for slab in self._slabs.values())

    def widen(self) -> None:
        """Give lanes more room than they need, before there is one, where that is little and saves time.

        Lanes of a small model then lie in one slab, which a call of each kernel serves, and which is rarely moved.
        """
        if self._wide_capacity > self.min_capacity:
            self.min_capacity, self._slab_type = self._wide_capacity, RoomySlab

    def capacity_for(self, length: int) -> int:
        """Return the capacity of a lane that is to hold ``length`` positions."""
        capacity = self.min_capacity
        while capacity < length:
            capacity = capacity * 3 // 2 if capacity & (capacity - 1) == 0 else capacity * 4 // 3
        return capacity

    def add(self, expected: int = 0) -> CachedLane:
        """Return a new, empty lane with room for ``expected`` positions before it must move."""
        return self._place(self.capacity_for(expected))

    def reserve(self, lane: CachedLane, count: int) -> None:
        """Make room for ``count`` positions more, in a larger slab where the lane's own is too small."""
        if lane.length + count > lane.capacity:
            self._move(lane, self.capacity_for(lane.length + count))

    def free(self, lane: CachedLane) -> None:
        """Remove a lane. It can't be used afterwards."""
        slab = lane.slab
        last = slab.lanes[-1]
        if last is not lane:
            slab.copy_lane(last, lane.slot)
            slab.lanes[lane.slot] = last
            last.slot = lane.slot
        slab.lanes.pop()
        slab.shrink()

    def fork(self, lane: CachedLane) -> CachedLane:
        """Return a copy of a lane, which grows apart from it."""
        copy = self._place(lane.capacity)
        copy.slab.copy_lane(lane, copy.slot)
        copy.length = lane.length
        return copy

    def truncate(self, lane: CachedLane, length: int) -> None:
        """Forget the positions of a lane from ``length`` on. Raises ``ValueError`` where it has fewer."""
        if not 0 <= length <= lane.length:
            raise ValueError(f"a lane of {lane.length} positions can't be cut to {length}.")
        lane.length = length

    def append(self, layer: int, group: LaneGroup, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values of a group, and return all that it has, ``key_LSKD, value_LSKD``.

        What lies beyond a lane's own length is finite and must be masked. ``advance`` ends the pass.
        """
        slab = group.slab
        new = tuple(zip(self.encode(key_LTKD.transpose(1, 2)), self.encode(value_LTKD.transpose(1, 2)), strict=True))
        if not slab.layers[layer]:
            slab.layers[layer] = tuple(slab._empty(key[None]) for key, _ in new)
        if slab.layers[layer][0].size(1) < len(slab.lanes):
            slab._make_room(layer)
        first, rows, end = group.first_slot, len(group.lengths), group.key_length
        stored: list[tuple[Tensor, ...]] = []
        for part, pair in zip(slab.layers[layer], new, strict=True):
            # narrow costs a third of an index, and this runs for every layer and token.
            own = part if rows == part.shape[1] else part.narrow(1, first, rows)
            if group.key_end_L is None:
                target = own.narrow(3, group.lengths[0], group.count)
                for kind, states_LKTD in enumerate(pair):
                    target.select(0, kind).copy_(states_LKTD)
            else:
                # One write for both, at places that are the same in every layer.
                part.flatten(0, 3).index_copy_(0, self._places(group, part), torch.cat(pair).flatten(0, 2))
            seen = own.narrow(3, 0, end)
            if rows >= MIN_READ_LANES and seen.numel() <= MAX_READ_NUMBERS:
                read_first(seen)
            stored.append(seen.unbind(0))
        keys, values = (self.decode(parts, key_LTKD.dtype).transpose(1, 2) for parts in zip(*stored, strict=True))
        return keys, values

    def _places(self, group: LaneGroup, part: Tensor) -> Tensor:
        """Return where new positions of lanes of different lengths lie in what is stored, over its first dimensions."""
        placed = self._placed.get(group)
        if placed is None or placed[0] != part.size(1):
            kinds, rows, heads, capacity = part.shape[:4]
            # One tensor of a list is one call, where arithmetic would be eight.
            places = [
                ((kind * rows + slot) * heads + head) * capacity + length
                for kind in range(kinds)
                for slot, length in enumerate(group.lengths, group.first_slot)
                for head in range(heads)
            ]
            placed = self._placed[group] = rows, torch.tensor(places, device=part.device)
        return placed[1]

    def advance(self, lanes: Sequence[tuple[CachedLane, int]]) -> None:
        """Count the new positions of lanes, once every layer has stored them."""
        self._placed.clear()
        for lane, count in lanes:
            lane.length += count

    def copy_out(self, lane: CachedLane, start: int, end: int) -> list[tuple[Tensor, ...]]:
        """Return a copy of some positions of a lane as they are stored, for each layer."""
        return [tuple(part[:, lane.slot, :, start:end].clone() for part in parts) for parts in lane.slab.layers]

    def copy_in(self, lane: CachedLane, layers: Sequence[tuple[Tensor, ...]]) -> None:
        """Append positions that ``copy_out`` returned to a lane."""
        count = layers[0][0].shape[2]
        self.reserve(lane, count)
        slab = lane.slab
        for layer, parts in enumerate(layers):
            if not slab.layers[layer]:
                slab.layers[layer] = tuple(slab._empty(part[:, None]) for part in parts)
            slab._make_room(layer)
            for target, part in zip(slab.layers[layer], parts, strict=True):
                target[:, lane.slot, :, lane.length : lane.length + count] = part
        lane.length += count

    def encode(self, states_LKTD: Tensor) -> tuple[Tensor, ...]:
        """Return what is stored of new keys or values: tensors [L, K, T, …]; here the states themselves."""
        return (states_LKTD,)

    def decode(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Return keys or values [L, K, S, D] in ``dtype`` from what ``encode`` returned; here without a copy."""
        return stored[0]

    def _place(self, capacity: int) -> CachedLane:
        slab = self._slabs.get(capacity)
        if slab is None:
            slab = self._slabs[capacity] = self._slab_type(capacity, [], [()] * self.num_layers)
        lane = CachedLane(slab, len(slab.lanes))
        slab.lanes.append(lane)
        return lane

    def _move(self, lane: CachedLane, capacity: int) -> None:
        moved = self._place(capacity)
        moved.slab.copy_lane(lane, moved.slot)
        old = CachedLane(lane.slab, lane.slot, lane.length)
        old.slab.lanes[old.slot] = old
        lane.slab, lane.slot = moved.slab, moved.slot
        lane.slab.lanes[lane.slot] = lane
        self.free(old)


def dynamic_cache(config: ChameleonConfig) -> LaneCache:
    """Return the cache ``dynamic`` for a model of this configuration."""
    cache = LaneCache(config.num_hidden_layers)
    capacity = min(WIDE_CAPACITY, cache.capacity_for(config.context_length))
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * capacity
    if numbers <= MAX_WIDE_NUMBERS:
        cache._wide_capacity = capacity
    return cache


@translates_errors
def make_lane_cache(name: str, config: ChameleonConfig) -> LaneCache:
    """Return a cache of that name, without lanes.

    Raises ``UnknownPluginError`` where none has the name, ``BrokenPluginError`` where it can't be made.
    """
    spec = REGISTRY.get(CACHES_HOOK, name)
    cache = spec.call("factory", config)
    if not isinstance(cache, LaneCache):
        wrong(spec.called, f"{described(cache)} from its factory; expected a LaneCache.")
    return cache


def _resized(part: Tensor, lanes: int) -> Tensor:
    grown = part.new_zeros(part.shape[0], lanes, *part.shape[2:])
    grown[:, : part.shape[1]] = part
    return grown
