"""The cache of keys and values.

Shapes: L lanes, T new positions, S slots filled so far, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..compat.caches import CacheQuestions
from ..errors import InputError


class LayerStates(NamedTuple):
    """What a cache holds of one layer, as views."""

    keys: Tensor
    """[L, K, S, D]."""
    values: Tensor
    """[L, K, S, D]."""

    def get_seq_length(self) -> int:
        """Return the number of positions so far, padding included."""
        return self.keys.shape[2]


class KVCache(CacheQuestions):
    """The keys and values of every layer, for a batch of lanes (rows) that all end at the same slot.

    Lanes of different lengths are padded on the left: the positions of lane b are the slots from ``starts[b]`` to
    ``length``. Memory is allocated for ``capacity`` slots and doubled when that is not enough; at a capacity of 0
    nothing is copied for a first pass, which may be the only one. ``visible_LS`` says which slots are seen where that
    isn't all from the start on, after a mask with holes or with padding on the right.

    It has what users of ``transformers`` ask a cache for: ``get_seq_length()``, ``layers``, ``crop``,
    ``reorder_cache`` and the rest.

    A forward pass stores each layer's new keys and values with ``update`` and moves the end with ``advance``.
    """

    __slots__ = ("__weakref__", "_first", "_layers", "capacity", "length", "starts", "visible_LS")

    def __init__(self, num_layers: int, batch_size: int, *, capacity: int = 64) -> None:
        self.length = 0
        self.starts: tuple[int, ...] = (0,) * batch_size
        self.capacity = capacity
        # One tensor [2, L, K, capacity, D] a layer, so that the slots of a head are contiguous, as kernels read them.
        # Dtype and device are those of the first keys.
        self._layers: list[Tensor | None] = [None] * num_layers
        self._first: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.visible_LS: Tensor | None = None

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
        """Store a layer's new keys and values and return all so far, as views ``key_LSKD, value_LSKD``.

        It isn't the ``update`` of ``transformers``, whose keys are [L, K, T, D] and come before the layer.
        """
        if type(layer) is not int:
            raise InputError(
                "KVCache.update takes a layer's index, then keys and values [rows, new positions, heads, width]; for "
                "layers written for transformers, make a DynamicCache."
            )
        if self.capacity == 0 and self.length == 0:
            self._first[layer] = (key_LTKD, value_LTKD)
            return key_LTKD, value_LTKD
        count = key_LTKD.shape[1]
        end = self.length + count
        stored = self._reserve(layer, end, key_LTKD)
        key_LKSD, value_LKSD = stored[0], stored[1]
        # narrow costs a third of an index, and this runs for every layer and token.
        key_LKSD.narrow(2, self.length, count).copy_(key_LTKD.transpose(1, 2))
        value_LKSD.narrow(2, self.length, count).copy_(value_LTKD.transpose(1, 2))
        return key_LKSD.narrow(2, 0, end).transpose(1, 2), value_LKSD.narrow(2, 0, end).transpose(1, 2)

    def advance(self, count: int) -> None:
        """Move the end by ``count`` positions, once every layer has stored them."""
        self.length += count

    def select(self, lanes: Sequence[int]) -> None:
        """Keep these lanes, in this order, and drop the slots that are padding in all of them."""
        starts = [self.starts[lane] for lane in lanes]
        unused = 0 if self.visible_LS is not None else min(starts, default=self.length)
        self.starts = tuple(start - unused for start in starts)
        for layer in range(len(self._layers)):
            stored = self._stored(layer)
            if stored is not None:
                self._layers[layer] = stored[:, list(lanes), :, unused:]
        self.length -= unused
        self.capacity -= unused
        if self.visible_LS is not None:
            self.visible_LS = self.visible_LS[list(lanes)]

    def extend(self, other: KVCache) -> None:
        """Append the lanes of another cache; the shorter of the two is shifted right, so that all end at one slot.

        ``other`` can't be used afterwards: this cache takes its memory over, or releases it layer by layer.
        """
        if not self.starts:
            self.length, self.starts = other.length, other.starts
            self.capacity, self._layers, self._first = other.capacity, other._layers, other._first
            self.visible_LS = other.visible_LS
            return
        if self.visible_LS is not None or other.visible_LS is not None:
            raise InputError("caches with padding that isn't on the left can't be joined; feed the rows left-padded.")
        length = max(self.length, other.length)
        self.capacity = max(self.capacity, other.capacity, length)
        for layer in range(len(self._layers)):
            mine, theirs = self._stored(layer), other._stored(layer)
            parts = [(mine, self.length, self.batch_size), (theirs, other.length, other.batch_size)]
            self._layers[layer] = _join(parts, length, self.capacity)
            other._layers[layer] = None
        self.starts = tuple(start + length - cache.length for cache in (self, other) for start in cache.starts)
        self.length = length

    @property
    def layers(self) -> list[LayerStates]:
        """The keys and values of each layer; none before the first pass."""
        found = [self._stored(layer) for layer in range(len(self._layers))]
        return [
            LayerStates(*(each.narrow(2, 0, self.length) for each in stored)) for stored in found if stored is not None
        ]

    def layer(self, layer: int) -> LayerStates:
        """Return the keys and values that a layer has stored. Raises ``InputError`` before the first pass."""
        stored = self._stored(layer)
        if stored is None:
            raise InputError("the cache is empty: no pass has stored keys and values in it.")
        return LayerStates(*(each.narrow(2, 0, self.length) for each in stored))

    def __iter__(self) -> Iterator[LayerStates]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self._layers)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions; their number is given as a negative one, as in ``transformers``."""
        if tokens_to_remove > 0 or -tokens_to_remove > self.length:
            raise InputError(
                f"tokens_to_remove must be from {-self.length} to 0, minus the number of positions to forget; "
                f"got {tokens_to_remove}."
            )
        for layer in range(len(self._layers)):
            self._stored(layer)
        self.length += tokens_to_remove
        self.starts = tuple(min(start, self.length) for start in self.starts)
        if self.visible_LS is not None:
            self.visible_LS = self.visible_LS[:, : self.length]

    def reset(self) -> None:
        """Forget everything, and keep the memory."""
        self.length, self.starts, self.visible_LS = 0, (0,) * self.batch_size, None
        self._first = [None] * len(self._layers)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, int64 [rows], in this order."""
        self.select(indices.tolist())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows of ``beam_idx``, int64 [L], in the places of all rows, as a beam search does."""
        self.select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, one copy after the other."""
        self.select([lane for lane in range(self.batch_size) for _ in range(repeats)])

    def _stored(self, layer: int) -> Tensor | None:
        """Return a layer's tensor, to which the states of a first pass are copied."""
        first = self._first[layer]
        if first is not None and self.length:
            self.capacity = max(self.capacity, self.length)
            self._layers[layer] = _padded(torch.stack([each.transpose(1, 2) for each in first]), self.capacity)
            self._first[layer] = None
        return self._layers[layer]

    def _reserve(self, layer: int, end: int, like_LTKD: Tensor) -> Tensor:
        if self.capacity < end:
            self.capacity = max(end, 2 * self.capacity)
        stored = self._stored(layer)
        if stored is None:
            batch_size, _, heads, width = like_LTKD.shape
            stored = like_LTKD.new_zeros(2, batch_size, heads, self.capacity, width)
        elif stored.shape[3] < end:
            stored = _padded(stored[:, :, :, : self.length], self.capacity)
        self._layers[layer] = stored
        return stored


def _padded(states_2LKSD: Tensor, capacity: int) -> Tensor:
    # Zeros and not empty memory: padding is masked, but NaN times a weight of 0 is NaN.
    shape = list(states_2LKSD.shape)
    grown = states_2LKSD.new_zeros(*shape[:3], capacity, shape[4])
    grown[:, :, :, : shape[3]] = states_2LKSD
    return grown


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
