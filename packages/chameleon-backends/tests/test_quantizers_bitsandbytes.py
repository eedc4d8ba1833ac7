"""``bnb-nf4`` and ``bnb-int8``, where bitsandbytes is installed.

Shapes: O output features, I input features.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from chameleon_backends import ConfigError, QuantizedLinear, WeightQuantizer, find_quantizer, get_weight_quantizer
from chameleon_backends.quantizers.bnb_repacked import RepackedNF4Weight
from chameleon_backends.testing import TOLERANCES, LinearProblem, WeightQuantizerConformance
from chameleon_backends.testing.weight_quantizers import for_all

bitsandbytes = pytest.importorskip("bitsandbytes")


class TestNF4(WeightQuantizerConformance):
    quantizer_name = "bnb-nf4"
    options = {"double_quant": False}
    relative_error = 0.13


class TestNF4DoublyQuantized(WeightQuantizerConformance):
    quantizer_name = "bnb-nf4"
    relative_error = 0.13

    not_applicable = {
        "test_quantizing_what_was_dequantized_changes_nothing": (
            "the scales are quantized relative to their mean, which the rounded ones don't have"
        )
    }

    def test_quantizing_again_does_not_drift(self, quantizer: WeightQuantizer) -> None:
        """A hundred times change a weight by at most two steps of its scale, 1/127 of the largest value."""
        weight_OI = 0.05 * torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
        once_OI = often_OI = quantizer.dequantize(quantizer.quantize(weight_OI))
        for _ in range(100):
            often_OI = quantizer.dequantize(quantizer.quantize(often_OI))
        assert (often_OI - once_OI).abs().max() <= 2 / 127 * once_OI.abs().max()


class TestLLMInt8(WeightQuantizerConformance):
    quantizer_name = "bnb-int8"
    relative_error = 0.01

    not_applicable = {"test_products_equal_those_of_the_dequantized_weight": "inputs are rounded to eight bits, too"}

    @for_all(examples=75)
    def test_products_equal_those_of_inputs_rounded_to_eight_bits(
        self, quantizer: WeightQuantizer, problem: LinearProblem
    ) -> None:
        """Each value of a row is off by at most half of 1/127 of the row's largest."""
        spec = problem.spec
        layer = QuantizedLinear(quantizer, spec.in_features, spec.out_features, dtype=spec.dtype)
        layer.load(quantizer.quantize(problem.weight_OI))
        weight_OI, values = layer.dequantize().double(), problem.input.double()
        rounded = values.abs().amax(dim=-1, keepdim=True) / 254 * weight_OI.abs().sum(dim=1)
        terms = TOLERANCES[torch.bfloat16] * (values.abs() @ weight_OI.abs().T)
        out = layer(problem.input)
        assert out.dtype == spec.dtype
        assert ((out.double() - values @ weight_OI.T).abs() <= rounded + terms).all()


def test_the_packages_layer_and_ours_are_the_same() -> None:
    """Ours reads what the package's own layers store, and the other way round."""
    linear = torch.nn.Linear(64, 48, bias=False)
    theirs = bitsandbytes.nn.Linear4bit(64, 48, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    # Else it repacks its weight in the first product on CPUs with AVX512-BF16, which takes multiples of 32 outputs.
    theirs.support_avx512bf16_for_cpu = False
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu")
    ours = QuantizedLinear.from_linear(linear, get_weight_quantizer("bnb-nf4"))
    values = torch.randn(3, 64)
    stored = theirs.state_dict()
    assert stored.keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(ours(values), theirs(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double_quant", [True, False])
def test_a_product_changes_nothing_that_is_saved(double_quant: bool, dtype: torch.dtype) -> None:
    """The package's own layer repacks its weight in the first product on CPUs with AVX512-BF16."""
    layer = QuantizedLinear.from_linear(
        torch.nn.Linear(128, 64, bias=False, dtype=dtype), get_weight_quantizer("bnb-nf4", double_quant=double_quant)
    )
    values = torch.randn(3, 128, dtype=dtype)
    before, out = {name: tensor.clone() for name, tensor in layer.state_dict().items()}, layer(values)
    for _ in range(2):
        after = layer.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
        assert torch.equal(layer(values), out)


@pytest.mark.skipif(
    not bitsandbytes.functional.has_avx512bf16(), reason="the package's kernel needs a CPU with AVX512-BF16"
)
@pytest.mark.parametrize(
    ("shape", "dtype", "repacked"),
    [
        ((64, 128), torch.bfloat16, True),
        ((64, 128), torch.float32, False),
        ((72, 128), torch.bfloat16, False),
        ((64, 96), torch.bfloat16, False),
    ],
)
def test_the_kernel_for_repacked_codes_runs_where_it_can(
    shape: tuple[int, int], dtype: torch.dtype, repacked: bool
) -> None:
    layer = QuantizedLinear.from_linear(
        torch.nn.Linear(shape[1], shape[0], bias=False, dtype=dtype), get_weight_quantizer("bnb-nf4")
    )
    assert isinstance(layer.prepared, RepackedNF4Weight) == repacked


@pytest.mark.parametrize("double_quant", [True, False])
def test_repacking_is_undone_on_every_cpu(double_quant: bool) -> None:
    quantizer = get_weight_quantizer("bnb-nf4", double_quant=double_quant)
    stored = quantizer.quantize(torch.randn(96, 192))
    statistics = {name: tensor for name, tensor in stored.items() if name != "weight"}
    state = bitsandbytes.functional.QuantState.from_dict(dict(statistics), device=torch.device("cpu"))
    back = RepackedNF4Weight.repack(stored["weight"], state, statistics).stored()
    assert back.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in back.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_features", [1, 22, 33, 72])
def test_nf4_serves_outputs_that_are_not_a_multiple_of_32(out_features: int, dtype: torch.dtype) -> None:
    """The package's kernel for CPUs with AVX512-BF16 doesn't."""
    linear = torch.nn.Linear(66, out_features, bias=False, dtype=dtype)
    layer = QuantizedLinear.from_linear(linear, get_weight_quantizer("bnb-nf4"))
    values = torch.randn(5, 66, dtype=dtype)
    torch.testing.assert_close(layer(values), values @ layer.dequantize().to(dtype).T)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("in_features", [2, 32, 66, 96, 160])
def test_blocks_of_nf4_continue_into_the_next_row(in_features: int, double_quant: bool) -> None:
    """The package's kernel for CPUs with AVX-512 begins a block with each row."""
    quantizer = get_weight_quantizer("bnb-nf4", double_quant=double_quant)
    stored = quantizer.quantize(torch.randn(6, in_features, generator=torch.Generator().manual_seed(0)))
    state = bitsandbytes.functional.QuantState.from_dict(
        {name: tensor for name, tensor in stored.items() if name != "weight"}, device=torch.device("cpu")
    )
    scales = state.absmax
    if double_quant:
        scales = state.state2.code[scales.long()] * state.state2.absmax.repeat_interleave(256)[: len(scales)]
        scales = scales + state.offset
    codes = torch.stack([stored["weight"].flatten() >> 4, stored["weight"].flatten() & 15], dim=1).flatten().long()
    expected_OI = (state.code[codes] * scales.repeat_interleave(64)[: len(codes)]).view(6, in_features)
    torch.testing.assert_close(quantizer.dequantize(stored), expected_OI)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_int8_multiplies_a_single_column(rows: int) -> None:
    """The kernel of torch for CPUs with AVX-512 reads past the end of such a weight."""
    layer = QuantizedLinear.from_linear(torch.nn.Linear(1, 33, bias=False), get_weight_quantizer("bnb-int8"))
    values = torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        # A row of one value is rounded to itself.
        torch.testing.assert_close(layer(values), values @ layer.dequantize().T, rtol=1e-3, atol=1e-5)


WITH_LIMITED_INSTRUCTIONS = """
import torch
from chameleon_backends import LinearSpec, QuantizedLinear, get_weight_quantizer

quantizer = get_weight_quantizer("bnb-int8")
cpu = torch.device("cpu")
reason = quantizer.unsupported(LinearSpec(in_features=64, out_features=33, dtype=torch.float32, device=cpu))
if reason is None:
    layer = QuantizedLinear.from_linear(torch.nn.Linear(64, 33, bias=False), quantizer)
    values = torch.ones(2, 64)
    torch.testing.assert_close(layer(values), values @ layer.dequantize().T, rtol=0, atol=1e-2)
else:
    assert "multiplies eight-bit integers wrongly on this CPU: ONEDNN_MAX_CPU_ISA" in reason, reason
"""


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_int8_is_right_or_refused_whatever_instructions_are_used(instructions: str) -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", WITH_LIMITED_INSTRUCTIONS], env=environment, check=True)


def test_products_are_computed_in_the_requested_dtype() -> None:
    linear, values = torch.nn.Linear(64, 48, bias=False), torch.randn(3, 64)
    exact, rough = (
        QuantizedLinear.from_linear(linear, get_weight_quantizer("bnb-nf4", compute_dtype=dtype))
        for dtype in (None, torch.bfloat16)
    )
    assert exact(values).dtype == rough(values).dtype == torch.float32
    torch.testing.assert_close(exact(values), values @ exact.dequantize().T)
    assert torch.equal(rough(values), rough(values.bfloat16()).float())
    assert not torch.equal(rough(values), exact(values))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bnb-nf4", {"compute_dtype": "int8"}, "compute_dtype is 'int8'; it must be float32"),
        ("bnb-int8", {"threshold": -1.0}, "threshold is -1.0; it must be a number ≥ 0"),
        ("bnb-int8", {"threshold": "6"}, "threshold is '6'; it must be a number ≥ 0"),
        ("bnb-int8", {"double_quant": True}, "has no option 'double_quant'; its options are: threshold"),
    ],
)
def test_impossible_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_weight_quantizer(name, **options)


def test_the_records_of_transformers_are_read() -> None:
    """As ``BitsAndBytesConfig.to_dict`` writes them, defaults and all."""
    common = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": None, "llm_int8_threshold": 6.0}
    four = {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}
    more = {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    assert find_quantizer({**common, **four, **more}) == (
        "bnb-nf4",
        {"double_quant": True, "compute_dtype": "bfloat16"},
    )
    assert find_quantizer({**common, "load_in_4bit": False, "load_in_8bit": True}) == ("bnb-int8", {"threshold": 6.0})


@pytest.mark.parametrize(
    "change",
    [
        {"blocksize": 1},
        {"blocksize": 4096},
        {"blocksize": 64.0},
        {"nested_blocksize": 256.0},
        {"shape": [48.0, 64.0]},
        {"shape": [4800, 6400]},
        {"shape": [64, 48]},
        {"nested_blocksize": 1},
        {"quant_type": "fp4"},
        {"dtype": "no such type"},
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_its_tensors_is_refused(change: dict[str, object]) -> None:
    """The package's kernels would read out of bounds."""
    quantizer = get_weight_quantizer("bnb-nf4")
    stored = quantizer.quantize(torch.randn(48, 64))
    name = "weight.quant_state.bitsandbytes__nf4"
    text = json.dumps({**json.loads(bytes(stored[name].tolist())), **change})
    stored[name] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    layer = QuantizedLinear(quantizer, 64, 48, dtype=torch.float32)
    with pytest.raises(ConfigError, match="the stored state"):
        layer.load(stored)


@pytest.mark.parametrize("offset", [1e39, -9.4e299, float("inf"), float("nan")])
def test_a_state_whose_weights_float32_does_not_hold_is_refused(offset: float) -> None:
    """The offset is a number of the JSON, so no check of the tensors sees it."""
    quantizer = get_weight_quantizer("bnb-nf4")
    stored = quantizer.quantize(torch.randn(48, 64))
    name = "weight.quant_state.bitsandbytes__nf4"
    text = json.dumps({**json.loads(bytes(stored[name].tolist())), "nested_offset": offset})
    stored[name] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    layer = QuantizedLinear(quantizer, 64, 48, dtype=torch.float32)
    with pytest.raises(ConfigError, match="which float32 doesn't hold"):
        layer.load(stored)


@pytest.mark.parametrize("name", ["weight.nested_absmax", "weight.quant_map"])
def test_scales_that_overflow_together_are_refused(name: str) -> None:
    quantizer = get_weight_quantizer("bnb-nf4")
    stored = quantizer.quantize(torch.randn(48, 64))
    stored[name] = torch.full_like(stored[name], 3e38)
    stored["weight.nested_quant_map"] = stored["weight.nested_quant_map"] * 2
    layer = QuantizedLinear(quantizer, 64, 48, dtype=torch.float32)
    if name == "weight.quant_map":
        stored["weight.nested_absmax"] = torch.full_like(stored["weight.nested_absmax"], 2.0)
    with pytest.raises(ConfigError, match="which float32 doesn't hold"):
        layer.load(stored)
