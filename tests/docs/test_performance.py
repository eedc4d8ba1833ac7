"""The page about performance: its tables are what the committed scripts give, and the computation is right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from chameleon_backends import get_weight_quantizer
from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# What 30B, as it is called there, has in params.json of Meta's release: dim, n_layers, n_heads, n_kv_heads.
LARGE = {
    "hidden_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 22016,
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import performance_page

    return performance_page


@pytest.fixture
def roofline(page: ModuleType) -> ModuleType:
    return sys.modules["roofline"]


def test_the_page_has_the_tables_that_the_script_writes(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_tables(text, page.read_measured()) == text, "run: python benchmarks/performance_page.py"


def test_a_page_without_a_block_is_refused(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8").replace("<!-- begin: sizes -->", "")
    with pytest.raises(ValueError, match="no block 'sizes'"):
        page.with_tables(text, page.read_measured())


def test_what_was_measured_on_a_busy_machine_says_so(page: ModuleType) -> None:
    measured = page.read_measured()
    for sweep in measured["sweeps"]:
        for point in sweep["points"]:
            point["disturbed"] = False
    assert "(d)" not in page.measured_tables(measured)
    measured["sweeps"][1]["points"][0]["disturbed"] = True
    assert "in 1 of these measurements" in page.measured_tables(measured)
    assert page.measured_tables(measured).count("(d) |") == 1


def test_plots_are_written_for_the_page(page: ModuleType) -> None:
    for name in (page.MEASURED_PLOT, page.COMPUTED_PLOT):
        assert name in page.PAGE.read_text(encoding="utf-8")
        assert page.PAGE.with_name(name).read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(("index", "fields"), [(0, {}), (1, LARGE)], ids=["7B", "34B"])
def test_the_shapes_have_as_many_weights_as_the_models(
    roofline: ModuleType, index: int, fields: dict[str, int]
) -> None:
    shape = roofline.SHAPES[index]
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(ChameleonConfig(**fields))
    matrices = sum(each.numel() for name, each in model.named_parameters() if "norm" not in name)
    assert shape.parameters == matrices
    assert shape.weights_read() == matrices - model.model.embed_tokens.weight.numel()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_weights_take_the_bytes_that_the_quantizers_store(roofline: ModuleType, name: str) -> None:
    layout = get_weight_quantizer(name).layout(4096, 11008)
    stored = sum(torch.Size(each.shape).numel() * each.dtype.itemsize for each in layout.values())
    [precision] = (each for each in roofline.PRECISIONS if each.name == name)
    assert precision.weight_bytes * 4096 * 11008 == pytest.approx(stored, rel=1e-3)


def test_cached_positions_take_the_bytes_of_a_cache(roofline: ModuleType) -> None:
    shape = roofline.Shape("tiny", layers=3, hidden=64, inner=96, heads=4, kv_heads=2)
    # Keys and values of 3 layers, 2 heads of width 16, 2 bytes each.
    assert shape.cached_bytes == 2 * 3 * 2 * 16 * 2


def test_a_step_is_bound_by_what_takes_longer(roofline: ModuleType) -> None:
    shape = roofline.Shape("tiny", layers=1, hidden=8, inner=16, heads=2, kv_heads=2)
    weights = 4 * 8 * 8 + 3 * 8 * 16
    assert shape.weights_read(outputs=0) == weights
    slow_memory = roofline.Device("slow memory", bandwidth=1.0, rate=1e30, memory=1e30)
    slow_arithmetic = roofline.Device("slow arithmetic", bandwidth=1e30, rate=1.0, memory=1e30)
    # Two rows after 3 and 5 positions: each reads its 2 · 8 cached numbers of 2 bytes a position.
    read = 2 * weights + (3 + 5) * 2 * 8 * 2
    assert roofline.step_seconds(shape, slow_memory, contexts=(3, 5), outputs=0) == read
    # Two operations a weight and row, and 4 · 8 for each position that a row attends to, its own included.
    operations = 2 * 2 * weights + 4 * 8 * (4 + 6)
    assert roofline.step_seconds(shape, slow_arithmetic, contexts=(3, 5), outputs=0) == operations


def test_a_prompt_is_as_many_operations_as_its_positions_one_by_one(roofline: ModuleType) -> None:
    shape = roofline.Shape("tiny", layers=1, hidden=8, inner=16, heads=2, kv_heads=2)
    device = roofline.Device("slow arithmetic", bandwidth=1e30, rate=1.0, memory=1e30)
    one_by_one = sum(roofline.step_seconds(shape, device, contexts=(each,), outputs=0) for each in range(5))
    logits = 2 * roofline.VOCABULARY * 8
    assert roofline.prefill_seconds(shape, device, length=5) == one_by_one + logits


@pytest.mark.parametrize("index", [0, 1], ids=["H100", "H200"])
def test_quantizing_makes_pictures_faster_in_the_order_of_the_bytes(roofline: ModuleType, index: int) -> None:
    device = roofline.DEVICES[index]
    for shape in roofline.SHAPES:
        seconds = [roofline.picture_seconds(shape, device, each) for each in roofline.PRECISIONS]
        assert seconds == sorted(seconds, reverse=True)
        # A picture takes about its steps, and no step less than reading the weights.
        least = 1024 * 2 * shape.weights_read(roofline.CODES) / device.bandwidth
        assert least < seconds[0] < 1.2 * least


def test_one_row_uses_little_of_the_arithmetic(roofline: ModuleType) -> None:
    seven, device = roofline.SHAPES[0], roofline.DEVICES[0]
    used = seven.operations(1024) / device.rate / roofline.step_seconds(seven, device)
    assert used < 0.01


def test_the_measurements_are_complete(page: ModuleType) -> None:
    measured = json.loads(page.MEASURED.read_text(encoding="utf-8"))
    assert [sweep["axis"] for sweep in measured["sweeps"]] == ["context", "batch", "million parameters"]
    assert all(len(sweep["points"]) >= 3 for sweep in measured["sweeps"])
    assert measured["machine"]["processor"]
