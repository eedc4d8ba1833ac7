"""The cache ``static``: the same ids as any other, in steps of one shape that compile once.

Double precision, so that rounding, which depends on the shapes of a pass, decides nothing.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_core import ConfigError, Engine, GenerationOptions, Request
from chameleon_core.model.static_cache import StaticLaneCache
from chameleon_core.testing import LaneCacheConformance, make_config, make_model

MODEL = make_model().double()
LAYOUT = MODEL.layout


class TestStatic(LaneCacheConformance):
    cache_name = "static"


def write(engine: Engine[Any], requests: list[Request], *, every: int = 0) -> list[list[int]]:
    """Return what requests write; they arrive ``every`` so many steps."""
    handles = []
    for request in requests:
        handles.append(engine.submit(request))
        for _ in range(every):
            engine.step()
    for _ in engine.run():
        pass
    return [handle.new_ids for handle in handles]


def some_requests(count: int, seed: int) -> list[Request]:
    kinds: list[dict[str, Any]] = [
        {"max_new_tokens": 12},
        {"max_new_tokens": 9, "do_sample": True, "temperature": 2.0},
        {"modality": "image", "do_sample": True, "temperature": 3.0, "guidance_text": 2.0},
        {"modality": "interleaved", "max_new_tokens": 20, "do_sample": True, "temperature": 2.0},
        {"modality": "image", "decoding": {"name": "jacobi", "window": 3}},
    ]
    return [
        Request(
            prompt=[LAYOUT.bos_id, *range(40, 41 + (seed + number) % 9)],
            options=GenerationOptions(**{"seed": seed, **kinds[(seed + number) % len(kinds)]}),
            index=number,
        )
        for number in range(count)
    ]


@given(st.integers(1, 6), st.integers(0, 99), st.integers(0, 3), st.sampled_from([None, 1, 2, 3]))
@settings(max_examples=30)
def test_ids_are_those_of_the_cache_dynamic(count: int, seed: int, every: int, max_rows: int | None) -> None:
    requests = some_requests(count, seed)
    static = Engine(MODEL, max_rows=max_rows, cache_implementation="static")
    expected = [write(Engine(MODEL), [request])[0] for request in requests]
    assert write(static, requests, every=every) == expected
    assert static.cache.positions == 0


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("rope_scaling", [None, {"rope_type": "dynamic", "factor": 2.0}], ids=["plain", "dynamic"])
def test_every_backend_and_rotation_gives_the_same_ids(backend: str, rope_scaling: dict[str, Any] | None) -> None:
    config = make_config(rope_scaling=rope_scaling, max_position_embeddings=48)
    model = make_model(config, attn_implementation=backend).double()
    requests = some_requests(3, 0)
    static = Engine(model, cache_implementation="static")
    assert write(static, requests) == [write(Engine(model), [request])[0] for request in requests]


def test_steps_of_any_length_have_one_shape_and_compile_once() -> None:
    model = copy.deepcopy(MODEL)
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model.model.compile_decoding(backend=backend, fullgraph=True)
    requests = some_requests(2, 1)
    static = Engine(model, cache_implementation="static")
    handles = [static.submit(request) for request in requests]
    static.step()
    assert graphs == []  # prompts are fed as they are
    while not static.is_idle and all(handle.finish_reason is None for handle in handles):
        static.step()
    steps = max(len(handle.new_ids) for handle in handles)
    assert steps > 5
    assert len(graphs) <= 2  # with the lanes of the guidance, and without them
    for _ in static.run():
        pass
    assert [handle.new_ids for handle in handles] == [write(Engine(MODEL), [request])[0] for request in requests]
    torch._dynamo.reset()


@torch.no_grad()
def test_rows_stay_where_they_are_until_the_last_lane_has_left() -> None:
    cache = MODEL.new_lane_cache("static")
    assert isinstance(cache, StaticLaneCache)
    lanes = [cache.add(1) for _ in range(3)]
    MODEL.feed_lanes([(lane, [40, 41]) for lane in lanes], cache)
    addresses = [parts[0].data_ptr() for parts in lanes[0].slab.layers]
    assert [parts[0].shape[1] for parts in lanes[0].slab.layers] == [4] * MODEL.config.num_hidden_layers
    cache.free(lanes.pop(0))
    MODEL.feed_lanes([(lane, [42]) for lane in lanes], cache)
    assert [parts[0].data_ptr() for parts in lanes[0].slab.layers] == addresses
    for lane in lanes:
        cache.free(lane)
    assert cache.positions == 0


def eager(graph: torch.fx.GraphModule, example: Any) -> Any:
    return graph.forward


def test_compiling_says_how_long_and_chooses_the_cache() -> None:
    torch._dynamo.reset()
    model = copy.deepcopy(MODEL)
    prompt_BT = torch.tensor([[LAYOUT.bos_id, 40, 41]])
    expected = model.generate(prompt_BT, max_new_tokens=6)
    seconds = model.compile_decoding((1, 2), backend=eager)
    assert list(seconds) == [1, 2]
    assert all(value > 0 for value in seconds.values())
    assert model.compiles_steps
    with pytest.MonkeyPatch.context() as patch:
        steps: list[int] = []
        inner = model.model.decoding_step
        patch.setattr(model.model, "decoding_step", lambda *args: (steps.append(len(args[0])), inner(*args))[1])
        assert torch.equal(model.generate(prompt_BT, max_new_tokens=6), expected)
        assert steps == [1] * 5
        steps.clear()
        model.generate(prompt_BT, max_new_tokens=6, cache_implementation="int8")
        assert steps == []
    model.model.stop_compiling()
    assert not model.compiles_steps
    torch._dynamo.reset()


def test_a_copy_of_a_model_that_compiles_steps_has_its_own_weights() -> None:
    torch._dynamo.reset()
    model = copy.deepcopy(MODEL)
    model.compile_decoding((1,), backend=eager)
    prompt_BT = torch.tensor([[LAYOUT.bos_id, 40, 41]])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.compiles_steps
        with torch.no_grad():
            other.lm_head.weight.zero_()
            other.lm_head.weight[47] = 1.0
            for weight in other.model.parameters():
                weight.abs_()
        expected = other.generate(prompt_BT, max_new_tokens=4)
        assert torch.equal(other.generate(prompt_BT, max_new_tokens=4, cache_implementation="static"), expected)
    assert torch.equal(model.generate(prompt_BT, max_new_tokens=4), MODEL.generate(prompt_BT, max_new_tokens=4))
    torch._dynamo.reset()


def test_where_nothing_compiles_the_steps_stay_as_they_were() -> None:
    def broken(graph: torch.fx.GraphModule, example: Any) -> Any:
        raise RuntimeError("no compiler is installed")

    torch._dynamo.reset()
    model = copy.deepcopy(MODEL)
    with pytest.raises(ConfigError, match=r"torch.compile fails here: .*no compiler is installed.* C\+\+ compiler"):
        model.compile_decoding((1,), backend=broken)
    assert not model.compiles_steps
    prompt_BT = torch.tensor([[LAYOUT.bos_id, 40, 41]])
    assert torch.equal(model.generate(prompt_BT, max_new_tokens=4), MODEL.generate(prompt_BT, max_new_tokens=4))
    torch._dynamo.reset()
