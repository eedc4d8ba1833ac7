"""Plans of training on many devices: each formula against what it means, by hand or from a model."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, ConfigError
from chameleon_core.planning import (
    CLUSTERS,
    SHAPES,
    Cluster,
    Device,
    Message,
    Parallelism,
    Shape,
    Workload,
    fastest,
    find_cluster,
    memory_of_rank,
    plan_divisions,
    plan_training,
    tensor_sizes,
)
from chameleon_core.planning import memory as memory_module
from chameleon_core.planning.memory import kept_activations, layer_activations, norm_activations
from chameleon_core.training import loss

SEVEN, LARGE = SHAPES
H100 = CLUSTERS["h100"]
# Weights: 2 · (4 · 8² + 3 · 8 · 24) in the layers, 2 · 32 · 8 around them; norms 5 · 8, qk-norms 2 · 2 · (8 + 8).
TINY = Shape("tiny", layers=2, hidden=8, inner=24, heads=4, kv_heads=4, vocabulary=32)
OF_LAYERS, OUTER, NORMS, HEAD_NORMS = 2 * (4 * 64 + 3 * 192), 2 * 256, 40, 64


@pytest.mark.parametrize(
    "fields",
    [{}, {"num_key_value_heads": 2}, {"tie_word_embeddings": True}, {"qk_norm": False}, {"swin_norm": True}],
    ids=["multi-head", "grouped", "tied", "without qk-norm", "swin_norm"],
)
def test_a_shape_has_as_many_weights_as_its_model(fields: dict[str, Any]) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 256}
    config = ChameleonConfig(**{**sizes, "num_attention_heads": 8, "num_key_value_heads": 8, **fields})
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(config)
    if config.tie_word_embeddings:
        model.tie_weights()
    shape = Shape.of(config, "it")
    assert shape.parameters + shape.norm_weights + shape.head_norm_weights == sum(
        each.numel() for each in model.parameters()
    )


def test_the_published_shapes_are_those_of_the_configurations() -> None:
    assert Shape.of(ChameleonConfig(), "7B") == SEVEN
    assert round(SEVEN.parameters / 1e9, 2) == 7.01
    assert round(LARGE.parameters / 1e9, 2) == 34.29


def test_a_row_takes_the_operations_of_its_positions() -> None:
    assert TINY.row_operations(7) == sum(TINY.operations(context) for context in range(7))
    assert TINY.row_operations(7, outputs=0) == sum(TINY.operations(context, outputs=0) for context in range(7))


def test_what_is_kept_of_the_weights_is_divided_among_all_ranks() -> None:
    memory = memory_of_rank(TINY, Parallelism(data=4), Workload(length=1))
    whole = OF_LAYERS + OUTER + NORMS + HEAD_NORMS
    assert memory.weights == whole
    assert memory.moments == 2 * whole
    # Tensor parallelism divides all but the norms of the hidden width.
    divided = memory_of_rank(TINY, Parallelism(data=2, tensor=2), Workload(length=1))
    assert divided.weights == 4 * ((OF_LAYERS + OUTER + HEAD_NORMS) / 2 + NORMS) / 2


def test_a_layer_keeps_what_its_backward_pass_needs() -> None:
    # A position in float32: two norms of two states each, two inputs, q k v normed and rotated, the result, statistics
    # of 8 heads' norms and 4 softmaxes, and four of the feed-forward.
    of_position = 4 * (2 * 2 * 8 + 2 * 8 + 3 * 16 + 8 + 8 + 4 * 24) + 4 * (2 * 8 + 4)
    one = Parallelism()
    assert layer_activations(TINY, one, Workload(rows=3, length=5, product_bytes=4)) == 15 * of_position
    kept = kept_activations(TINY, one, Workload(length=10, recomputed=0.0, product_bytes=4))
    recomputed = kept_activations(TINY, one, Workload(length=10, recomputed=1.0, product_bytes=4))
    assert kept == 10 * 2 * of_position
    # The inputs of two layers.
    assert recomputed == 10 * 2 * 8 * 4
    # The final norm's input, what its weight multiplies, and the result.
    assert norm_activations(TINY, one, Workload(length=10, product_bytes=4)) == 10 * 3 * 8 * 4


def test_dividing_the_positions_divides_the_norms_and_residuals() -> None:
    work = Workload(length=64)
    whole, divided = (kept_activations(SEVEN, Parallelism(1, 4, sequence=each), work) for each in (False, True))
    assert divided == whole / 4


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_memory_falls_with_every_rank(shape: Shape) -> None:
    def total(**ranks: int) -> float:
        return memory_of_rank(shape, Parallelism(**ranks, sequence=ranks.get("tensor", 1) > 1), Workload()).total

    by_data = [total(data=2**power) for power in range(11)]
    by_tensor = [total(data=8, tensor=2**power) for power in range(4)]
    assert by_data == sorted(by_data, reverse=True)
    assert by_tensor == sorted(by_tensor, reverse=True)


def test_the_loss_is_planned_with_its_own_chunks() -> None:
    assert memory_module.LOGITS_BYTES == loss.CHUNK_BYTES_OF_ACCELERATORS
    assert memory_module.STATISTICS_ELEMENTS == loss.BLOCK_ELEMENTS_OF_ACCELERATORS


def sent(parallelism: Parallelism, work: Workload, **fields: Any) -> float:
    return plan_training(dataclasses.replace(TINY, **fields), H100, parallelism, work).sent


def test_one_rank_sends_nothing() -> None:
    plan = plan_training(TINY, H100, Parallelism())
    assert plan.messages == ()
    assert plan.sent == plan.time.tensor == plan.time.data == 0


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("data", [2, 4])
def test_data_parallel_ranks_send_weights_and_gradients(data: int, passes: int) -> None:
    in_layers, around = OF_LAYERS + 2 * 2 * 8 + HEAD_NORMS, OUTER + 8
    # Weights in bfloat16: of layers forward and backward, the rest once. Gradients in float32.
    once = 2 * (2 * in_layers + around) + 4 * (in_layers + around)
    assert sent(Parallelism(data), Workload(passes=passes)) == pytest.approx(passes * once * (data - 1) / data)


@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel_ranks_send_states(sequence: bool) -> None:
    work = Workload(rows=2, length=3, recomputed=0.0)
    # Two sums a layer and one of the embeddings, and as many of gradients; three numbers of the loss. An all-reduce of
    # two ranks sends as much as the tensor has, as do a reduce-scatter and an all-gather together.
    expected = 2 * (2 * 2 + 1) * (6 * 8 * 2) + 3 * 6 * 4
    norms = 4 * NORMS if sequence else 0
    assert sent(Parallelism(tensor=2, sequence=sequence), work) == expected + norms


def test_recomputed_layers_send_their_sums_again() -> None:
    states = 6 * 8 * 2

    def again(**fields: Any) -> float:
        kept, recomputed = (
            sent(Parallelism(tensor=2), Workload(rows=2, length=3, recomputed=share), **fields) for share in (0, 1)
        )
        return (recomputed - kept) / states

    # The last sum of a layer is needed again only by a norm that follows it.
    assert again() == 2
    assert again(swin_norm=True) == 4


SLOW = Cluster(
    Device("slow", bandwidth=math.inf, rate=math.inf, memory=math.inf),
    link=100.0,
    network=10.0,
    efficiency=1.0,
    per_node=4,
    link_latency=1.0,
    network_latency=5.0,
)


@pytest.mark.parametrize(
    ("parallelism", "seconds"),
    [
        (Parallelism(data=1), 0.0),
        # Half of 800 bytes, and one hop.
        (Parallelism(data=2), 400 / 100 + 1),
        # 7 of 8 parts by 4 cards; 6 hops within the two nodes and 1 between them.
        (Parallelism(data=8), 700 / 40 + 6 + 5),
        # A node has one rank of each part: half of the bytes by its one card.
        (Parallelism(data=2, tensor=4), 400 / 10 + 5),
        # A node has two ranks of each part.
        (Parallelism(data=4, tensor=2), 600 / 20 + 2 + 5),
    ],
    ids=str,
)
def test_a_ring_is_as_fast_as_its_wires(parallelism: Parallelism, seconds: float) -> None:
    message = Message("ends", "it", "all-gather", "data", size=800, count=1)
    assert message.seconds(parallelism, SLOW) == pytest.approx(seconds)
    thrice = dataclasses.replace(message, operation="all-reduce", count=3)
    assert thrice.seconds(parallelism, SLOW) == pytest.approx(6 * seconds)


def test_groups_send_by_the_links_of_a_node_and_larger_ones_by_the_network() -> None:
    message = Message("ends", "it", "all-gather", "tensor", size=800, count=1)
    assert message.seconds(Parallelism(tensor=4), SLOW) == pytest.approx(600 / 100 + 3)
    assert message.seconds(Parallelism(tensor=8), SLOW) == pytest.approx(700 / 40 + 6 + 5)


def test_products_take_their_operations() -> None:
    device = Device("slow", bandwidth=math.inf, rate=10.0, memory=math.inf)
    cluster = dataclasses.replace(SLOW, device=device, efficiency=0.5)
    forward = 2 * TINY.row_operations(3, outputs=0)
    outputs = 2 * 3 * 2 * 32 * 8
    for recomputed, passes in ((0.0, 1), (1.0, 1), (0.5, 4)):
        work = Workload(rows=2, length=3, recomputed=recomputed, passes=passes)
        time = plan_training(TINY, cluster, Parallelism(), work).time
        assert time.products == pytest.approx(passes * ((3 + recomputed) * forward + 3 * outputs) / 10 / 0.5)
        assert time.optimizer == time.data == time.tensor == 0


def test_products_hide_what_groups_send_until_it_takes_longer() -> None:
    fast = dataclasses.replace(H100, network=math.inf, link=math.inf, link_latency=0.0, network_latency=0.0)
    slow = dataclasses.replace(H100, network=1e6)
    work = Workload(rows=4)
    times = [plan_training(SEVEN, each, Parallelism(16), work).time for each in (fast, H100, slow)]
    assert times[0].data == 0
    assert times[0].products == times[1].products == times[2].products
    # What neither pass hides: the first weights and the last gradients, of the embedding and the output layer.
    ends = sum(
        each.seconds(Parallelism(16), H100)
        for each in plan_training(SEVEN, H100, Parallelism(16), work).messages
        if each.phase == "ends"
    )
    assert times[1].data == pytest.approx(ends)
    assert times[2].data > times[2].products


def test_the_optimizer_reads_and_writes_a_ranks_part() -> None:
    time = plan_training(SEVEN, H100, Parallelism(64)).time
    weights = (SEVEN.parameters + SEVEN.norm_weights + SEVEN.head_norm_weights) / 64
    assert time.optimizer == pytest.approx(8 * 4 * weights / 3.35e12)


def test_utilization_counts_no_operation_twice() -> None:
    kept, again = (
        plan_training(SEVEN, H100, Parallelism(), Workload(recomputed=each, passes=32)) for each in (0.0, 1.0)
    )
    assert again.utilization < kept.utilization < H100.efficiency
    assert kept.utilization == pytest.approx(H100.efficiency, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("devices", [8, 64, 1024])
def test_all_divisions_train_on_as_many_ids(shape: Shape, devices: int) -> None:
    plans = plan_divisions(shape, H100, devices, rows=2)
    assert [each.parallelism.tensor for each in plans] == [1, 2, 4, 8]
    assert {each.ids for each in plans} == {devices * 2 * 4096}
    assert all(each.parallelism.ranks == devices for each in plans)
    best = fastest(plans)
    assert best is None or all(each.ids_per_second <= best.ids_per_second for each in plans if each.fits)


def test_nothing_is_fastest_where_nothing_fits() -> None:
    assert fastest(plan_divisions(LARGE, H100, 1)) is None


@pytest.mark.parametrize(("shape", "sizes"), [(SEVEN, [1, 2, 4, 8, 16, 32]), (LARGE, [1, 2, 4, 8])], ids=["7B", "34B"])
def test_groups_divide_the_heads(shape: Shape, sizes: list[int]) -> None:
    assert tensor_sizes(shape) == sizes


@pytest.mark.parametrize(
    ("parallelism", "work", "message"),
    [
        (Parallelism(tensor=3), Workload(), "3 tensor-parallel ranks can't divide 34B.*Choose one of 1, 2, 4, 8"),
        (Parallelism(tensor=16), Workload(), "8 key/value heads"),
        (Parallelism(data=0), Workload(), "Parallelism.data must be at least 1; got 0"),
        (Parallelism(tensor=0), Workload(), "Parallelism.tensor must be at least 1; got 0"),
        (Parallelism(sequence=True), Workload(), "Choose 2 or more tensor-parallel ranks"),
        (Parallelism(), Workload(rows=0), "Workload.rows must be at least 1; got 0"),
        (Parallelism(), Workload(length=0), "Workload.length"),
        (Parallelism(), Workload(passes=0), "Workload.passes"),
        (Parallelism(), Workload(recomputed=1.5), "Workload.recomputed is a share and must be 0…1; got 1.5"),
        (Parallelism(), Workload(product_bytes=1), "2 .bfloat16. or 4 .float32.; got 1"),
    ],
    ids=str,
)
def test_impossible_plans_are_refused(parallelism: Parallelism, work: Workload, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_training(LARGE, H100, parallelism, work)


def test_an_unknown_device_is_refused_with_the_closest() -> None:
    assert find_cluster("H100") is H100
    with pytest.raises(ConfigError, match=r"'h10'; known are a100, h100, h200\. Did you mean 'h100'\?"):
        find_cluster("h10")
    with pytest.raises(ConfigError, match="at least 1 device; got 0"):
        plan_divisions(SEVEN, H100, 0)


def test_planning_loads_no_model() -> None:
    code = "import sys, chameleon_core.planning; print('chameleon_core.model' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
