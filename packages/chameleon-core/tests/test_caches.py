"""Caches of keys and values: the built-in ones keep the contract, and wrong ones are found out.

Shapes: L lanes of a group, K key/value heads, T query length, S key length, D head width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_backends import plugins
from chameleon_backends._entry_points import FoundEntryPoint
from chameleon_core import (
    HOOK_API_VERSION,
    BrokenPluginError,
    ChameleonConfig,
    Engine,
    GenerationError,
    GenerationOptions,
    PluginSpec,
    Request,
    UnknownPluginError,
    hookimpl,
)
from chameleon_core.model.int8_cache import Int8LaneCache
from chameleon_core.model.lane_cache import CachedLane, LaneCache, LaneGroup
from chameleon_core.registry import REGISTRY
from chameleon_core.testing import LaneCacheConformance, make_model


class TestDynamic(LaneCacheConformance):
    cache_name = "dynamic"


class TestDynamicInHalfPrecision(LaneCacheConformance):
    cache_name = "dynamic"
    dtype = torch.bfloat16


class TestInt8(LaneCacheConformance):
    # Half a scale: the largest of so many normal numbers is below 5, and 5 / 127 / 2 is 0.02.
    cache_name = "int8"
    tolerance = 0.021


class ForgetsTheLast(LaneCache):
    def append(self, layer: int, group: LaneGroup, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().append(layer, group, key_LTKD, value_LTKD)
        return keys.clone().index_fill_(1, torch.tensor([keys.shape[1] - 1]), 0), values


class MixesKeysAndValues(LaneCache):
    def append(self, layer: int, group: LaneGroup, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().append(layer, group, key_LTKD, value_LTKD)
        return values, keys


class WritesIntoTheNeighbour(LaneCache):
    def append(self, layer: int, group: LaneGroup, key_LTKD: Tensor, value_LTKD: Tensor) -> tuple[Tensor, Tensor]:
        found = super().append(layer, group, key_LTKD, value_LTKD)
        group.slab.layers[layer][0][:, group.first_slot - 1, :, 0] = key_LTKD[-1, -1]
        return found


class SharesOneLength(LaneCache):
    def advance(self, lanes: Any) -> None:
        for lane, _ in lanes:
            lane.length = max(lane.length + count for lane, count in lanes)


class CutsTooLittle(LaneCache):
    def truncate(self, lane: CachedLane, length: int) -> None:
        if length > lane.length:
            raise ValueError("a lane can't be cut to more.")
        lane.length = min(lane.length, length + 1)


class CutsAnything(LaneCache):
    def truncate(self, lane: CachedLane, length: int) -> None:
        lane.length = length


class ForksByReference(LaneCache):
    def fork(self, lane: CachedLane) -> CachedLane:
        return lane


class ForksNothing(LaneCache):
    def fork(self, lane: CachedLane) -> CachedLane:
        copy = self.add(lane.length)
        copy.slab.layers[:] = lane.slab.layers
        copy.length = lane.length
        return copy


class CopiesFromTheStart(LaneCache):
    def copy_out(self, lane: CachedLane, start: int, end: int) -> Any:
        return super().copy_out(lane, 0, end - start)


class CopiesViews(LaneCache):
    def copy_out(self, lane: CachedLane, start: int, end: int) -> Any:
        return [tuple(part[:, lane.slot, :, start:end] for part in parts) for parts in lane.slab.layers]


class LeavesTheHole(LaneCache):
    def free(self, lane: CachedLane) -> None:
        slab = lane.slab
        slab.lanes.remove(lane)
        for slot, each in enumerate(slab.lanes):
            each.slot = slot


class GivesNothingBack(LaneCache):
    def free(self, lane: CachedLane) -> None:
        pass


class IgnoresWhatIsExpected(LaneCache):
    def add(self, expected: int = 0) -> CachedLane:
        return super().add(0)


class PromisesTooMuch(LaneCache):
    @staticmethod
    def capacity_for(length: int) -> int:
        return 64


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        ("what_is_appended_is_returned", ForgetsTheLast),
        ("what_is_appended_is_returned", MixesKeysAndValues),
        ("lanes_are_apart", WritesIntoTheNeighbour),
        ("lanes_are_apart", SharesOneLength),
        ("a_lane_can_be_cut", CutsTooLittle),
        ("a_lane_can_be_cut", CutsAnything),
        ("a_fork_grows_apart", ForksByReference),
        ("a_fork_grows_apart", ForksNothing),
        ("positions_can_be_copied", CopiesFromTheStart),
        ("positions_can_be_copied", CopiesViews),
        ("lanes_that_leave_give_their_room_back", LeavesTheHole),
        ("lanes_that_leave_give_their_room_back", GivesNothingBack),
        ("there_is_room_for_what_is_stored", IgnoresWhatIsExpected),
        ("there_is_room_for_what_is_stored", PromisesTooMuch),
    ],
)
def test_each_law_is_failed_by_wrong_caches(law: str, wrong: type[LaneCache]) -> None:
    class Suite(LaneCacheConformance):
        def make(self) -> LaneCache:
            return wrong(2)

    with pytest.raises((AssertionError, RuntimeError, ValueError, IndexError, pytest.fail.Exception)):
        getattr(Suite(), f"test_{law}")()


MODEL = make_model()
PROMPT = torch.tensor([[0, 40, 41, 42, 43, 44]])


def test_eight_bit_keys_and_values_take_the_memory_that_they_promise() -> None:
    stored: dict[str, int] = {}
    for name in ("dynamic", "int8"):
        engine = Engine(MODEL, cache_implementation=name, max_positions=64)
        engine.submit(Request(prompt=PROMPT[0].tolist(), options=GenerationOptions(max_new_tokens=4)))
        engine.step()
        (slab,) = engine.cache._slabs.values()  # type: ignore[attr-defined]
        stored[name] = sum(part.nbytes for parts in slab.layers for part in parts)
    # The heads are 8 wide: 8 codes and a scale of 4 bytes in place of 32 bytes.
    assert stored["int8"] == stored["dynamic"] * 12 // 32


def test_eight_bits_change_logits_by_little() -> None:
    """The logits after the cached prompt, beside their spread over the vocabulary."""
    hidden = {}
    for name in ("dynamic", "int8"):
        cache = MODEL.new_lane_cache(name)
        lane = cache.add()
        with torch.no_grad():
            MODEL.feed_lanes([(lane, PROMPT[0].tolist())], cache)
            hidden[name] = MODEL.lm_head(MODEL.feed_lanes([(lane, [45])], cache))[0]
    difference = (hidden["int8"] - hidden["dynamic"]).abs().max() / hidden["dynamic"].std()
    assert 0 < difference < 0.05


def test_the_cache_is_chosen_by_an_option() -> None:
    out = MODEL.generate(PROMPT, max_new_tokens=4, cache_implementation="int8")
    assert out.shape[1] <= PROMPT.shape[1] + 4
    assert isinstance(MODEL.new_lane_cache("int8"), Int8LaneCache)
    with pytest.raises(UnknownPluginError, match="int9"):
        MODEL.generate(PROMPT, max_new_tokens=4, cache_implementation="int9")
    engine = Engine(MODEL)
    with pytest.raises(GenerationError, match="asks for the cache 'int8', and this engine has one for all"):
        engine.submit(Request(prompt=[40], options=GenerationOptions(cache_implementation="int8")))


class HalfCache(LaneCache):
    def encode(self, states_LKTD: Tensor) -> tuple[Tensor]:
        return (states_LKTD.half(),)

    def decode(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return stored[0].to(dtype)


class Plugin:
    """A third-party plugin with a cache that works and two that don't."""

    @hookimpl
    def chameleon_core_caches(self) -> list[PluginSpec]:
        def broken(config: ChameleonConfig) -> LaneCache:
            raise RuntimeError("no memory")

        factories = {
            "acme-half": lambda config: HalfCache(config.num_hidden_layers),
            "acme-dict": lambda config: {},
            "acme-broken": broken,
        }
        return [
            PluginSpec(name=name, factory=factory, api_version=HOOK_API_VERSION) for name, factory in factories.items()
        ]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = FoundEntryPoint(
        group="chameleon_core", name="acme", value="acme_caches:plugin", distribution="acme-caches", version="0.3"
    )
    monkeypatch.setitem(sys.modules, "acme_caches", SimpleNamespace(plugin=Plugin()))  # type: ignore[arg-type]
    monkeypatch.setattr(plugins, "entry_points", lambda prefix: [found])
    REGISTRY.reload()
    yield
    monkeypatch.undo()
    REGISTRY.reload()


@pytest.mark.usefixtures("plugin")
def test_a_plugins_cache_is_used_by_its_name_and_named_where_it_is_wrong() -> None:
    assert isinstance(MODEL.new_lane_cache("acme-half"), HalfCache)
    plain = MODEL.generate(PROMPT, max_new_tokens=4)
    assert MODEL.generate(PROMPT, max_new_tokens=4, cache_implementation="acme-half").shape == plain.shape
    for name, what in (("acme-dict", "a dict"), ("acme-broken", "no memory")):
        with pytest.raises(BrokenPluginError, match=rf"'{name}' of acme-caches 0\.3.*{what}"):
            MODEL.new_lane_cache(name)
