"""The cache of keys and values.

Shapes: B lanes of the batch, T new positions, S slots, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class KVCache:
    """Keys and values of every layer for a batch of lanes that end at the same slot.

    Lanes of different lengths are padded on the left: lane b's own positions are the slots from ``starts[b]`` to
    ``length``. Memory is taken once for ``capacity`` slots and doubled when that is not enough.

    A forward pass writes each layer's new keys with ``update`` and moves the end with ``advance``.
    """

    def __init__(self, num_layers: int, batch_size: int, *, capacity: int = 64) -> None:
        self.length = 0
        self.starts: tuple[int, ...] = (0,) * batch_size
        self.capacity = capacity
        # One tensor [2, B, capacity, K, D] a layer; its dtype and device are those of the first keys.
        self._layers: list[Tensor | None] = [None] * num_layers

    @property
    def batch_size(self) -> int:
        """The number of lanes."""
        return len(self.starts)

    def pad(self, starts: Sequence[int]) -> None:
        """Say how many slots at the left of each lane are padding; before anything is stored."""
        self.starts = tuple(starts)

    def update(self, layer: int, key_BTKD: Tensor, value_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values and return all of them so far, as views ``key_BSKD, value_BSKD``."""
        end = self.length + key_BTKD.shape[1]
        stored = self._reserve(layer, end, key_BTKD)
        stored[0, :, self.length : end] = key_BTKD
        stored[1, :, self.length : end] = value_BTKD
        return stored[0, :, :end], stored[1, :, :end]

    def advance(self, count: int) -> None:
        """Count ``count`` positions as stored, once every layer has stored them."""
        self.length += count

    def select(self, lanes: Sequence[int]) -> None:
        """Keep these lanes, in this order."""
        self.starts = tuple(self.starts[lane] for lane in lanes)
        for layer, stored in enumerate(self._layers):
            if stored is not None:
                self._layers[layer] = stored[:, list(lanes)]

    def extend(self, other: KVCache) -> None:
        """Append the lanes of another cache; the shorter of the two moves right, so that all end at one slot."""
        length = max(self.length, other.length)
        self.capacity = max(self.capacity, other.capacity)
        self._layers = [
            _join(
                [(mine, self.length), (theirs, other.length)],
                length,
                self.capacity,
                (self.batch_size, other.batch_size),
            )
            for mine, theirs in zip(self._layers, other._layers, strict=True)
        ]
        self.starts = tuple(start + length - cache.length for cache in (self, other) for start in cache.starts)
        self.length = length

    def _reserve(self, layer: int, end: int, like_BTKD: Tensor) -> Tensor:
        stored = self._layers[layer]
        while self.capacity < end:
            self.capacity *= 2
        if stored is None or stored.shape[2] < end:
            # Zeros, not whatever memory held: padding is masked, but a NaN times a weight of zero is a NaN.
            grown = like_BTKD.new_zeros(2, like_BTKD.shape[0], self.capacity, *like_BTKD.shape[2:])
            if stored is not None:
                grown[:, :, : self.length] = stored[:, :, : self.length]
            self._layers[layer] = stored = grown
        return stored


def _join(
    parts: Sequence[tuple[Tensor | None, int]], length: int, capacity: int, batch_sizes: Sequence[int]
) -> Tensor | None:
    """Lay caches of one layer under each other, right-aligned at ``length``; one that stored nothing is all padding."""
    template = next((stored for stored, _ in parts if stored is not None), None)
    if template is None:
        return None
    joined = template.new_zeros(2, sum(batch_sizes), capacity, *template.shape[3:])
    row = 0
    for (stored, own_length), rows in zip(parts, batch_sizes, strict=True):
        if stored is not None:
            joined[:, row : row + rows, length - own_length : length] = stored[:, :, :own_length]
        row += rows
    return joined
