"""The cache of keys and values.

Shapes: L lanes, T new positions, S slots filled so far, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError


class KVCache:
    """The keys and values of every layer, for a batch of lanes (rows) that all end at the same slot.

    Lanes of different lengths are padded on the left: the positions of lane b are the slots from ``starts[b]`` to
    ``length``. Memory is allocated for ``capacity`` slots and doubled when that is not enough.

    A forward pass stores each layer's new keys and values with ``update`` and moves the end with ``advance``.
    """

    def __init__(self, num_layers: int, batch_size: int, *, capacity: int = 64) -> None:
        self.length = 0
        self.starts: tuple[int, ...] = (0,) * batch_size
        self.capacity = capacity
        # One tensor [2, L, K, capacity, D] a layer, so that the slots of a head are contiguous, as kernels read them.
        # Dtype and device are those of the first keys.
        self._layers: list[Tensor | None] = [None] * num_layers

    def __repr__(self) -> str:
        filled = f"{self.length} of {self.capacity} filled"
        return f"KVCache(layers={len(self._layers)}, rows={self.batch_size}, slots=<{filled}>)"

    @property
    def batch_size(self) -> int:
        """The number of lanes."""
        return len(self.starts)

    def pad(self, starts: Sequence[int]) -> None:
        """Declare how many slots at the left of each lane are padding, before anything else is stored in the lane."""
        self.starts = tuple(starts)

    def update(self, layer: int, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values and return all so far, as views ``key_LSKD, value_LSKD``."""
        count = key_LTKD.shape[1]
        end = self.length + count
        stored = self._reserve(layer, end, key_LTKD)
        key_LKSD, value_LKSD = stored[0], stored[1]
        # narrow costs a third of an index, and this runs for every layer and token.
        key_LKSD.narrow(2, self.length, count).copy_(key_LTKD.transpose(1, 2))
        value_LKSD.narrow(2, self.length, count).copy_(value_LTKD.transpose(1, 2))
        return key_LKSD.narrow(2, 0, end).transpose(1, 2), value_LKSD.narrow(2, 0, end).transpose(1, 2)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values that a layer has stored, two views [L, K, S, D]; none before the first pass."""
        stored = self._layers[layer]
        if stored is None:
            raise InputError("the cache is empty: no pass has stored keys and values in it.")
        return stored[0].narrow(2, 0, self.length), stored[1].narrow(2, 0, self.length)

    def advance(self, count: int) -> None:
        """Move the end by ``count`` positions, once every layer has stored them."""
        self.length += count

    def select(self, lanes: Sequence[int]) -> None:
        """Keep these lanes, in this order, and drop the slots that are padding in all of them."""
        starts = [self.starts[lane] for lane in lanes]
        unused = min(starts, default=self.length)
        self.starts = tuple(start - unused for start in starts)
        self.length -= unused
        self.capacity -= unused
        for layer, stored in enumerate(self._layers):
            if stored is not None:
                self._layers[layer] = stored[:, list(lanes), :, unused:]

    def extend(self, other: KVCache) -> None:
        """Append the lanes of another cache; the shorter of the two is shifted right, so that all end at one slot.

        ``other`` can't be used afterwards: this cache takes its memory over, or releases it layer by layer.
        """
        if not self.starts:
            self.length, self.starts = other.length, other.starts
            self.capacity, self._layers = other.capacity, other._layers
            return
        length = max(self.length, other.length)
        self.capacity = max(self.capacity, other.capacity)
        for layer, (mine, theirs) in enumerate(zip(self._layers, other._layers, strict=True)):
            parts = [(mine, self.length, self.batch_size), (theirs, other.length, other.batch_size)]
            self._layers[layer] = _join(parts, length, self.capacity)
            other._layers[layer] = None
        self.starts = tuple(start + length - cache.length for cache in (self, other) for start in cache.starts)
        self.length = length

    def _reserve(self, layer: int, end: int, like_LTKD: Tensor) -> Tensor:
        stored = self._layers[layer]
        if self.capacity < end:
            self.capacity = max(end, 2 * self.capacity)
        if stored is None or stored.shape[3] < end:
            # Zeros and not empty memory: padding is masked, but NaN times a weight of 0 is NaN.
            batch_size, _, heads, width = like_LTKD.shape
            grown = like_LTKD.new_zeros(2, batch_size, heads, self.capacity, width)
            if stored is not None:
                grown[:, :, :, : self.length] = stored[:, :, :, : self.length]
            self._layers[layer] = stored = grown
        return stored


def _join(parts: Sequence[tuple[Tensor | None, int, int]], length: int, capacity: int) -> Tensor | None:
    """Concatenate the lanes of one layer of several caches, right-aligned at ``length``.

    ``parts`` holds for each cache its tensor (None: nothing stored, all padding), its filled slots and its lanes.
    """
    template = next((stored for stored, _, _ in parts if stored is not None), None)
    if template is None:
        return None
    heads, width = template.shape[2], template.shape[4]
    joined = template.new_zeros(2, sum(lanes for _, _, lanes in parts), heads, capacity, width)
    lane = 0
    for stored, own_length, lanes in parts:
        if stored is not None:
            joined[:, lane : lane + lanes, :, length - own_length : length] = stored[:, :, :, :own_length]
        lane += lanes
    return joined
