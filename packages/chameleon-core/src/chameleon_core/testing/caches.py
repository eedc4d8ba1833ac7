"""The conformance suite for caches of keys and values: the contract of ``LaneCache`` as laws.

Shapes: L lanes of a group, T query length, S key length, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ..model.lane_attention import lane_group, lane_order
from ..model.lane_cache import CachedLane, LaneCache, make_lane_cache
from .conformance import Conformance
from .models import make_config

# Examples are drawn from a seed, so smaller ones say no more.
LAWS = settings(derandomize=True, deadline=None, database=None, max_examples=12, phases=[Phase.generate])
NUM_LAYERS, NUM_HEADS, HEAD_DIM = 2, 3, 8
CONFIG = make_config(
    hidden_size=NUM_HEADS * HEAD_DIM,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=NUM_HEADS,
    num_key_value_heads=NUM_HEADS,
)


@dataclass(eq=False)
class Stored:
    """A lane and what was appended to it."""

    lane: CachedLane
    """The lane."""
    layers: list[Tensor] = field(default_factory=lambda: [torch.zeros(2, 0, NUM_HEADS, HEAD_DIM)] * NUM_LAYERS)
    """For each layer its keys and values [2, S, K, D]."""

    @property
    def length(self) -> int:
        """S, how many positions it has."""
        return self.layers[0].shape[1]


class Recorder:
    """Does to a cache what is asked, keeps a plain record of it, and compares the two."""

    def __init__(self, cache: LaneCache, seed: int, *, dtype: torch.dtype, tolerance: float, device: str) -> None:
        self.cache = cache
        self.dtype = dtype
        self.tolerance = tolerance
        self.device = device
        self.random = torch.Generator().manual_seed(seed)

    def add(self, expected: int = 0) -> Stored:
        """Add a lane."""
        return Stored(self.cache.add(expected))

    def append(self, lanes: Sequence[Stored], count: int) -> None:
        """Append ``count`` positions to each lane, in calls of neighbours as the model makes them, and compare."""
        for stored in lanes:
            self.cache.reserve(stored.lane, count)
        ordered = sorted(lanes, key=lambda stored: lane_order(stored.lane))
        for group in _groups(ordered, count):
            for layer in range(NUM_LAYERS):
                new_kLTKD = torch.randn(2, len(group), count, NUM_HEADS, HEAD_DIM, generator=self.random)
                key_LTKD, value_LTKD = new_kLTKD.to(self.device, self.dtype)
                lane_L = [stored.lane for stored in group]
                found = self.cache.append(
                    layer, lane_group(lane_L, count, torch.device(self.device)), key_LTKD, value_LTKD
                )
                for place, stored in enumerate(group):
                    stored.layers[layer] = torch.cat((stored.layers[layer], new_kLTKD[:, place]), dim=1)
                    for kind in range(2):
                        self.compare(found[kind], place, stored.layers[layer][kind])
        self.cache.advance([(stored.lane, count) for stored in lanes])

    def compare(self, found_LSKD: Tensor, place: int, expected_SKD: Tensor) -> None:
        """Compare what the cache returned of one lane with the record."""
        assert found_LSKD.dtype == self.dtype, f"the cache returned {found_LSKD.dtype}, expected {self.dtype}."
        assert found_LSKD.isfinite().all(), "what lies beyond a lane's length must be finite, because it is masked."
        found_SKD = found_LSKD[place, : len(expected_SKD)].float().cpu()
        torch.testing.assert_close(found_SKD, expected_SKD.to(self.dtype).float(), rtol=0, atol=self.tolerance)

    def truncate(self, stored: Stored, length: int) -> None:
        """Cut a lane."""
        self.cache.truncate(stored.lane, length)
        stored.layers = [states[:, :length] for states in stored.layers]

    def fork(self, stored: Stored) -> Stored:
        """Fork a lane."""
        return Stored(self.cache.fork(stored.lane), list(stored.layers))

    def copy(self, stored: Stored, start: int, end: int, target: Stored) -> None:
        """Append some positions of a lane to another one."""
        self.cache.copy_in(target.lane, self.cache.copy_out(stored.lane, start, end))
        target.layers = [
            torch.cat((mine, theirs[:, start:end]), dim=1)
            for mine, theirs in zip(target.layers, stored.layers, strict=True)
        ]

    def check(self, lanes: Sequence[Stored]) -> None:
        """Append a position to each lane, which returns all that it has."""
        for stored in lanes:
            assert stored.lane.length == stored.length
            self.append([stored], 1)


def _groups(ordered: Sequence[Stored], count: int) -> list[list[Stored]]:
    groups: list[list[Stored]] = []
    for stored in ordered:
        last = groups[-1][-1].lane if groups else None
        neighbour = last is not None and last.slab is stored.lane.slab and last.slot + 1 == stored.lane.slot
        if neighbour and last is not None and (count == 1 or last.length == stored.lane.length):
            groups[-1].append(stored)
        else:
            groups.append([stored])
    return groups


Law = Callable[[Any, Recorder, Any], None]


def for_all(law: Law) -> Callable[[Any], None]:
    """Turn a law about one cache into a test of drawn ones."""

    def test(self: Any) -> None:
        def holds(seed: int, numbers: Any) -> None:
            recorder = Recorder(self.make(), seed, dtype=self.dtype, tolerance=self.tolerance, device=self.device)
            law(self, recorder, numbers)

        LAWS(given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))(holds))()

    test.__name__, test.__qualname__, test.__doc__ = law.__name__, law.__qualname__, law.__doc__
    return test


class LaneCacheConformance(Conformance):
    """The contract of ``LaneCache`` as tests. Derive from it and name the cache::

        class TestAcme(LaneCacheConformance):
            cache_name = "acme"
            tolerance = 0.02

    ``tolerance`` is how far a number of keys or values, drawn from a normal distribution, may be from what was stored.
    To test a cache that isn't registered, override ``make``.
    """

    cache_name: ClassVar[str] = ""
    tolerance: ClassVar[float] = 0.0
    dtype: ClassVar[torch.dtype] = torch.float32
    device: ClassVar[str] = "cpu"

    def make(self) -> LaneCache:
        """Return a new cache under test, for a model of two layers with three heads of width 8."""
        if not self.cache_name:
            raise ValueError(f"{type(self).__name__} must set cache_name, or override make.")
        return make_lane_cache(self.cache_name, CONFIG)

    @for_all
    def test_what_is_appended_is_returned(self, cache: Recorder, numbers: Any) -> None:
        """However it is cut into pieces, and whatever room was expected."""
        lane = cache.add(numbers.choice([0, 100, 300]))
        for _ in range(numbers.randint(1, 4)):
            cache.append([lane], numbers.choice([1, 2, 7, 40, 100]))

    @for_all
    def test_lanes_are_apart(self, cache: Recorder, numbers: Any) -> None:
        """What is appended to some changes nothing of others, of whatever length."""
        lanes = [cache.add(numbers.choice([0, 100])) for _ in range(numbers.randint(2, 5))]
        for _ in range(4):
            some = numbers.sample(lanes, numbers.randint(1, len(lanes)))
            cache.append(some, numbers.choice([1, 1, 3, 50]))
        cache.check(lanes)

    @for_all
    def test_a_lane_can_be_cut(self, cache: Recorder, numbers: Any) -> None:
        """What comes after the cut takes the place of what was there."""
        lane, other = cache.add(), cache.add()
        for stored in (lane, other):
            cache.append([stored], numbers.randint(1, 100))
        cache.truncate(lane, numbers.randint(0, lane.length))
        cache.append([lane], numbers.randint(1, 20))
        cache.check([lane, other])
        with pytest.raises(ValueError, match="can't be cut"):
            cache.cache.truncate(lane.lane, lane.length + 1)

    @for_all
    def test_a_fork_grows_apart(self, cache: Recorder, numbers: Any) -> None:
        """The lane and its copy have the same beginning and nothing else in common."""
        lane = cache.add()
        cache.append([lane], numbers.randint(1, 70))
        copy = cache.fork(lane)
        for _ in range(3):
            cache.append(numbers.choice([[lane], [copy], [lane, copy]]), numbers.choice([1, 5]))
        cache.truncate(lane, 0)
        cache.check([lane, copy])

    @for_all
    def test_positions_can_be_copied(self, cache: Recorder, numbers: Any) -> None:
        """What was copied out is appended elsewhere, even after the lane has gone."""
        lane, target = cache.add(), cache.add()
        cache.append([lane], numbers.randint(2, 90))
        if numbers.random() < 0.5:
            cache.append([target], numbers.randint(1, 70))
        start = numbers.randint(0, lane.length - 1)
        cache.copy(lane, start, numbers.randint(start + 1, lane.length), target)
        kept = cache.cache.copy_out(lane.lane, 0, 1)
        record = [states[:, :1] for states in lane.layers]
        cache.cache.free(lane.lane)
        third = Stored(cache.cache.add())
        cache.append([third, target], 1)
        cache.cache.copy_in(third.lane, kept)
        third.layers = [torch.cat(pair, dim=1) for pair in zip(third.layers, record, strict=True)]
        cache.check([target, third])

    @for_all
    def test_lanes_that_leave_give_their_room_back(self, cache: Recorder, numbers: Any) -> None:
        """Those that stay keep what they have, and nothing is left at the end."""
        lanes = [cache.add() for _ in range(numbers.randint(2, 6))]
        for _ in range(6):
            if not lanes:
                break
            cache.append(numbers.sample(lanes, numbers.randint(1, len(lanes))), numbers.choice([1, 2, 60]))
            if numbers.random() < 0.5:
                cache.cache.free(lanes.pop(numbers.randrange(len(lanes))).lane)
            assert cache.cache.positions == sum(stored.lane.capacity for stored in lanes)
        cache.check(lanes)
        for stored in lanes:
            cache.cache.free(stored.lane)
        assert cache.cache.positions == 0

    @for_all
    def test_there_is_room_for_what_is_stored(self, cache: Recorder, numbers: Any) -> None:
        """A lane's room is what was expected at least, and never less than it has."""
        expected = numbers.randint(0, 500)
        lane = cache.add(expected)
        assert lane.lane.capacity >= expected
        assert cache.cache.capacity_for(expected) >= expected
        for _ in range(3):
            cache.append([lane], numbers.randint(1, 200))
            assert lane.lane.capacity >= lane.lane.length == lane.length
