"""The cache of keys and values, by hand.

Shapes: B batch (lanes), T new positions, S stored positions, K key/value heads, D head width: K and D are 1 here.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chameleon_core.model.cache import KVCache


def column(*numbers: float) -> Tensor:
    """One new position of each lane, [B, 1, 1, 1]."""
    return torch.tensor(numbers).reshape(-1, 1, 1, 1)


def store(cache: KVCache, *columns: Tensor, layers: int = 1) -> tuple[Tensor, Tensor]:
    """Store one position after another in every layer, values as the negative keys; what layer 0 has then."""
    for new in columns:
        held = [cache.update(layer, new, -new) for layer in range(layers)]
        cache.advance(1)
    return held[0]


def keys(cache: KVCache) -> list[list[float]]:
    """What layer 0 holds of keys, a list a lane. (Storing nothing shows what there is.)"""
    nothing = torch.zeros(cache.batch_size, 0, 1, 1)
    key_BSKD, value_BSKD = cache.update(0, nothing, nothing)
    assert torch.equal(key_BSKD, -value_BSKD)
    return key_BSKD.flatten(1).tolist()


def test_what_was_stored_comes_back_in_order() -> None:
    cache = KVCache(1, 2)
    key_BSKD, value_BSKD = store(cache, column(1, 2), column(3, 4))
    assert cache.length == 2
    assert key_BSKD.flatten(1).tolist() == [[1, 3], [2, 4]]
    assert torch.equal(value_BSKD, -key_BSKD)


def test_an_update_counts_only_once_it_is_advanced() -> None:
    # A forward pass that was interrupted leaves the cache as it was.
    cache = KVCache(1, 1)
    store(cache, column(1))
    cache.update(0, column(7), column(7))
    assert store(cache, column(2))[0].flatten().tolist() == [1, 2]


def test_layers_are_apart() -> None:
    cache = KVCache(2, 1)
    assert cache.update(0, column(1), column(1))[0].flatten().tolist() == [1]
    assert cache.update(1, column(2), column(2))[0].flatten().tolist() == [2]


def test_several_positions_at_once_are_the_same_as_one_after_another() -> None:
    whole, single = KVCache(1, 2), KVCache(1, 2)
    both = torch.cat((column(1, 2), column(3, 4)), dim=1)
    whole.update(0, both, -both)
    whole.advance(2)
    store(single, column(1, 2), column(3, 4))
    assert keys(whole) == keys(single)


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_growing_keeps_what_is_stored(capacity: int) -> None:
    cache = KVCache(1, 2, capacity=capacity)
    store(cache, *(column(step, -step) for step in range(9)))
    assert keys(cache) == [list(range(9)), [-step for step in range(9)]]


def test_capacity_doubles_so_that_storing_n_positions_copies_o_of_n() -> None:
    cache = KVCache(1, 1, capacity=4)
    capacities = []
    for step in range(20):
        store(cache, column(step))
        capacities.append(cache.capacity)
    assert sorted(set(capacities)) == [4, 8, 16, 32]


def test_a_prompt_longer_than_the_capacity_is_stored_in_one_step() -> None:
    cache = KVCache(1, 1, capacity=2)
    prompt = torch.arange(100.0).reshape(1, 100, 1, 1)
    cache.update(0, prompt, -prompt)
    cache.advance(100)
    assert keys(cache) == [list(range(100))]


def test_selecting_keeps_lanes_in_the_order_asked_for() -> None:
    cache = KVCache(1, 3)
    cache.pad([0, 1, 0])
    store(cache, column(1, 2, 3), column(4, 5, 6))
    cache.select([2, 1])
    assert keys(cache) == [[3, 6], [2, 5]]
    assert cache.starts == (0, 1)
    assert cache.batch_size == 2


def test_selecting_gives_back_the_slots_that_are_padding_in_every_lane_kept() -> None:
    cache = KVCache(1, 3, capacity=4)
    cache.pad([0, 2, 1])
    store(cache, *(column(step, 10 + step, 20 + step) for step in range(3)))
    cache.select([1, 2])
    assert cache.starts == (1, 0)
    assert cache.length == 2
    assert keys(cache) == [[11, 12], [21, 22]]
    store(cache, *(column(step, step) for step in range(5)))
    assert keys(cache) == [[11, 12, 0, 1, 2, 3, 4], [21, 22, 0, 1, 2, 3, 4]]


def test_selecting_no_lane_leaves_an_empty_cache() -> None:
    cache = KVCache(1, 2)
    store(cache, column(1, 2))
    cache.select([])
    assert cache.batch_size == 0
    cache.extend(filled := KVCache(1, 1))
    assert (cache.batch_size, cache.length) == (1, filled.length)


def test_extending_aligns_the_ends_and_pads_the_shorter_on_the_left() -> None:
    long, short = KVCache(1, 1), KVCache(1, 2)
    store(long, column(1), column(2), column(3))
    short.pad([0, 1])
    store(short, column(7, 8), column(9, 10))
    long.extend(short)
    assert long.length == 3
    assert long.starts == (0, 1, 2)
    assert keys(long) == [[1, 2, 3], [0, 7, 9], [0, 8, 10]]


def test_extending_by_a_longer_one_moves_the_own_lanes() -> None:
    short, long = KVCache(1, 1), KVCache(1, 1)
    store(short, column(5))
    store(long, column(1), column(2))
    short.extend(long)
    assert short.starts == (1, 0)
    assert keys(short) == [[0, 5], [1, 2]]


def test_a_lane_without_anything_stored_is_all_padding() -> None:
    cache = KVCache(1, 1)
    store(cache, column(1), column(2))
    cache.extend(KVCache(1, 1))
    assert cache.starts == (0, 2)
    assert keys(cache) == [[1, 2], [0, 0]]
    empty = KVCache(1, 1)
    empty.extend(cache)
    assert empty.starts == (2, 0, 2)
    assert keys(empty) == [[0, 0], [1, 2], [0, 0]]


def test_an_empty_cache_takes_over_what_it_is_extended_by_without_a_copy() -> None:
    filled = KVCache(1, 1)
    store(filled, column(1))
    held = filled.update(0, column(2), column(2))[0].data_ptr()
    cache = KVCache(1, 0)
    cache.extend(filled)
    assert cache.update(0, column(2), -column(2))[0].data_ptr() == held
    assert keys(cache) == [[1]]


def test_padding_holds_finite_numbers_so_that_a_weight_of_zero_hides_them() -> None:
    cache = KVCache(1, 1, capacity=1)
    store(cache, *(column(step) for step in range(40)))
    cache.extend(KVCache(1, 1))
    assert torch.isfinite(torch.tensor(keys(cache))).all()


def test_keys_keep_their_dtype() -> None:
    cache = KVCache(1, 1)
    key_BSKD, value_BSKD = store(cache, column(1).bfloat16())
    assert key_BSKD.dtype == value_BSKD.dtype == torch.bfloat16


def test_a_repr_has_the_sizes() -> None:
    cache = KVCache(2, 3, capacity=64)
    cache.advance(5)
    assert repr(cache) == "KVCache(layers=2, rows=3, slots=<5 of 64 filled>)"
