"""The cache of lanes: any legal order of what can be done to it holds the keys and values of what each lane was fed.

Shapes: M flattened ids of all lanes, E hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from chameleon_core import ChameleonForConditionalGeneration, Engine
from chameleon_core.model.lane_cache import MIN_CAPACITY, CachedLane, LaneCache
from chameleon_core.testing import make_config, make_model

MODEL = make_model(make_config(max_position_embeddings=512))
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
Fed = tuple[CachedLane, list[int]]
words = st.lists(st.integers(40, 63), min_size=1, max_size=MIN_CAPACITY + 10)


@torch.no_grad()
def feed(
    model: ChameleonForConditionalGeneration, cache: LaneCache, fed: Sequence[Fed], new: Sequence[list[int]]
) -> None:
    """Feed lanes new ids, and compare the hidden states with those of a pass over everything."""
    hidden_ME = model.feed_lanes([(lane, ids) for (lane, _), ids in zip(fed, new, strict=True)], cache)
    parts = hidden_ME.split([len(ids) for ids in new])
    for (lane, before), ids, found_TE in zip(fed, new, parts, strict=True):
        whole_TE = model.model(torch.tensor([before + ids])).last_hidden_state[0]
        torch.testing.assert_close(found_TE, whole_TE[len(before) :], **ROUNDING)
        before += ids
        assert lane.length == len(before)


class CacheMachine(RuleBasedStateMachine):
    """Lanes join, are fed, fork, are cut and leave in any order."""

    lanes = Bundle("lanes")

    def __init__(self) -> None:
        super().__init__()
        self.cache = LaneCache(MODEL.config.num_hidden_layers)
        self.live: list[Fed] = []

    @rule(target=lanes, expected=st.integers(0, 200))
    def add(self, expected: int) -> Fed:
        fed: Fed = (self.cache.add(expected), [])
        assert fed[0].capacity >= expected
        self.live.append(fed)
        return fed

    @rule(some=st.sets(st.integers(0, 9), min_size=1, max_size=4), data=st.data())
    def feed(self, some: set[int], data: st.DataObject) -> None:
        chosen = [self.live[place] for place in sorted(some) if place < len(self.live)]
        chosen = [fed for fed in data.draw(st.permutations(chosen)) if len(fed[1]) < 300]
        if data.draw(st.booleans()):
            new = [[data.draw(st.integers(40, 63))] for _ in chosen]
        else:
            new = [data.draw(words) for _ in chosen]
        if chosen:
            feed(MODEL, self.cache, chosen, new)

    @rule(target=lanes, fed=lanes)
    def fork(self, fed: Fed) -> Fed:
        copy: Fed = (self.cache.fork(fed[0]), list(fed[1]))
        self.live.append(copy)
        return copy

    @rule(fed=lanes, data=st.data())
    def truncate(self, fed: Fed, data: st.DataObject) -> None:
        length = data.draw(st.integers(0, len(fed[1])))
        self.cache.truncate(fed[0], length)
        del fed[1][length:]

    @rule(target=lanes, fed=lanes, data=st.data())
    def copy(self, fed: Fed, data: st.DataObject) -> Fed:
        if not fed[1]:
            return multiple()  # type: ignore[return-value]
        end = data.draw(st.integers(1, len(fed[1])))
        other: Fed = (self.cache.add(), fed[1][:end])
        middle = data.draw(st.integers(0, end))
        for start, stop in ((0, middle), (middle, end)):
            if start < stop:
                self.cache.copy_in(other[0], self.cache.copy_out(fed[0], start, stop))
        self.live.append(other)
        return other

    @rule(fed=consumes(lanes))
    def free(self, fed: Fed) -> None:
        self.cache.free(fed[0])
        self.live = [each for each in self.live if each is not fed]

    @invariant()
    def room_is_that_of_the_lanes(self) -> None:
        assert self.cache.positions == sum(lane.capacity for lane, _ in self.live)

    def teardown(self) -> None:
        for lane, _ in self.live:
            self.cache.free(lane)
        assert self.cache.positions == 0


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=30, stateful_step_count=20, deadline=None, derandomize=True)


@pytest.mark.parametrize("length", [0, 1, 64, 65, 96, 97, 128, 129, 1000, 4096, 100_000])
def test_a_capacity_holds_the_length_and_half_as_much_at_most(length: int) -> None:
    capacity = LaneCache(2).capacity_for(length)
    assert capacity >= length
    assert capacity == MIN_CAPACITY or capacity < 1.5 * length


def test_a_lane_can_be_cut_only_to_what_it_has() -> None:
    cache = LaneCache(2)
    lane = cache.add()
    with pytest.raises(ValueError, match="a lane of 0 positions can't be cut to 1"):
        cache.truncate(lane, 1)


def test_memory_is_given_back_when_lanes_leave() -> None:
    cache = LaneCache(2)
    lanes = [cache.add() for _ in range(8)]
    with torch.no_grad():
        MODEL.feed_lanes([(lane, [40]) for lane in lanes], cache)
    slab = lanes[0].slab
    assert slab.layers[0][0].shape[1] == 8
    for lane in lanes[:4]:
        cache.free(lane)
    assert slab.layers[0][0].shape[1] == 4
    for lane in lanes[4:]:
        cache.free(lane)
    assert slab.layers == [(), ()]


def test_lanes_of_a_small_model_share_a_slab_where_room_is_unbounded() -> None:
    capacities = {}
    for max_positions in (None, 512):
        cache = Engine(MODEL, max_positions=max_positions).cache
        assert isinstance(cache, LaneCache)
        fed: list[Fed] = [(cache.add(length), []) for length in (10, 70, 200)]
        feed(MODEL, cache, fed, [[40 + place % 20 for place in range(length)] for length in (3, 20, 40)])
        cache.free(fed.pop(0)[0])
        feed(MODEL, cache, fed, [[41], [42]])
        capacities[max_positions] = {lane.capacity for lane, _ in fed}
    assert capacities == {None: {256}, 512: {96, 256}}


def test_a_wide_slab_stays_where_it_is_until_the_last_lane_leaves() -> None:
    cache = MODEL.new_lane_cache()
    cache.widen()
    lanes = [cache.add() for _ in range(5)]
    with torch.no_grad():
        MODEL.feed_lanes([(lane, [40]) for lane in lanes], cache)
    memory = lanes[0].slab.layers[0][0]
    for lane in lanes[:4]:
        cache.free(lane)
    lanes += [cache.add() for _ in range(7)]
    with torch.no_grad():
        MODEL.feed_lanes([(lane, [41]) for lane in lanes[4:]], cache)
    assert lanes[4].slab.layers[0][0] is memory
    assert memory.shape[1] == 8
    for lane in lanes[4:]:
        cache.free(lane)
    assert lanes[4].slab.layers == [(), ()]


@pytest.mark.parametrize("rope_type", ["linear", "dynamic"])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_lanes_are_rotated_by_their_own_length(rope_type: str, attn_implementation: str) -> None:
    scaled = make_config(max_position_embeddings=16, rope_scaling={"type": rope_type, "factor": 4.0})
    model = make_model(scaled, attn_implementation=attn_implementation)
    cache = LaneCache(2)
    fed: list[Fed] = [(cache.add(), []) for _ in range(3)]
    feed(model, cache, fed, [[40 + place % 20 for place in range(length)] for length in (3, 20, 40)])
    if rope_type == "linear":
        feed(model, cache, fed, [[41], [42], [43]])
