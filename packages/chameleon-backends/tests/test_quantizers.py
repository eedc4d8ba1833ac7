"""``int8`` and ``int4`` beyond the conformance suite: by hand, to the bit, and the kernels' orders.

Shapes: O output features, I input features, N rows of input, g groups in a row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from chameleon_backends import (
    ConfigError,
    LinearSpec,
    QuantizedLinear,
    TensorLayout,
    UnknownPluginError,
    UnsupportedWeightError,
    WeightQuantizer,
    find_quantizer,
    get_weight_quantizer,
    weight_quantizer_names,
    why_quantizer_unavailable,
    why_quantizer_unsupported,
)
from chameleon_backends.plain_weight import ALIGNMENT, BLOCK_ROWS, aligned, block_rows, multiply_dense
from chameleon_backends.quantizers import bnb, int4_kernels
from chameleon_backends.quantizers.cpu_rows import INT8_ROWS, product_instructions
from chameleon_backends.quantizers.int4 import Int4Quantizer
from chameleon_backends.quantizers.int4_kernels import CPUInt4Weight, CUDAInt4Weight, kernel_for
from chameleon_backends.quantizers.int8 import Int8Quantizer, Int8Weight
from chameleon_backends.testing import TOLERANCES

LAWS = settings(derandomize=True, deadline=None, database=None, max_examples=40)
QUANTIZERS = [Int8Quantizer(), *(Int4Quantizer(size) for size in (32, 128))]
TINY = torch.finfo(torch.bfloat16).tiny


def layer_spec(
    in_features: int = 64, out_features: int = 48, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> LinearSpec:
    return LinearSpec(in_features=in_features, out_features=out_features, dtype=dtype, device=torch.device(device))


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Rows [O, 256] of float32 values of any magnitude, of one sign or both, with a few outliers."""
    values = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32) | st.sampled_from([0.0, TINY])
    rows = draw(st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight_OI = torch.randn(len(rows), 256, generator=generator)
    if draw(st.booleans()):
        weight_OI.abs_()
    for row, values_of_row in zip(weight_OI, rows, strict=True):
        row.mul_(draw(st.sampled_from([0.0, 1e-40, 1e-3, 1.0, 1e20])))
        row[torch.randperm(256, generator=generator)[: len(values_of_row)]] = torch.tensor(values_of_row)
    return weight_OI


def steps(quantizer: WeightQuantizer, stored: dict[str, Tensor]) -> Tensor:
    """Return the step of each weight, [O, 256]."""
    scale = stored["weight_scale"].double().abs()
    return scale[:, None] if scale.dim() == 1 else scale.repeat_interleave(256 // scale.shape[1], dim=1)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@LAWS
@given(weight_OI=weights())
def test_each_weight_is_off_by_at_most_half_a_step(quantizer: WeightQuantizer, weight_OI: Tensor) -> None:
    """For any weights: nothing is clipped."""
    stored = quantizer.quantize(weight_OI)
    error_OI = (quantizer.dequantize(stored).double() - weight_OI.double()).abs()
    # The division before rounding is itself rounded, by 2^-24 of a code of up to 2^7.
    assert (error_OI <= steps(quantizer, stored) * (0.5 + 2.0**-17)).all()


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@LAWS
@given(weight_OI=weights())
def test_quantizing_the_dequantized_weight_gives_the_same_bits(quantizer: WeightQuantizer, weight_OI: Tensor) -> None:
    stored = quantizer.quantize(weight_OI)
    again = quantizer.quantize(quantizer.dequantize(stored))
    assert all(torch.equal(again[name], stored[name]) for name in stored)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@LAWS
@given(weight_OI=weights())
def test_the_step_is_hardly_larger_than_the_range_requires(quantizer: WeightQuantizer, weight_OI: Tensor) -> None:
    """A bound on the error in steps says nothing if the steps are too wide."""
    scale = quantizer.quantize(weight_OI)["weight_scale"].double().abs()
    groups = weight_OI.double().view(*scale.shape, -1)
    below, above = (-groups.amin(dim=-1)).clamp(min=0), groups.amax(dim=-1).clamp(min=0)
    further, nearer = torch.maximum(below, above), torch.minimum(below, above)
    ideal = further / 127 if scale.dim() == 1 else torch.maximum(further / 8, nearer / 7)
    assert (scale <= (ideal * (1 + 2.0**-8)).clamp(min=TINY)).all()


def test_int8_by_hand() -> None:
    """The largest value, 127/64, makes steps of 1/64."""
    weight_OI = torch.tensor([[127 / 64, -1.0, 0.0, 1 / 64, 0.4 / 64, -0.6 / 64], [0.0] * 6])
    stored = Int8Quantizer().quantize(weight_OI)
    assert stored["weight"].tolist() == [[127, -64, 0, 1, 0, -1], [0] * 6]
    assert stored["weight_scale"].tolist() == [1 / 64, TINY]
    assert Int8Quantizer().dequantize(stored)[0].tolist() == [127 / 64, -1.0, 0.0, 1 / 64, 0.0, -1 / 64]


@pytest.mark.parametrize("sign", [1, -1])
def test_int4_by_hand(sign: int) -> None:
    """The values −8 … 7 are their own codes, and 8 … −7 are those of the scale −1: all sixteen are used."""
    values = sign * torch.arange(-8, 8).float()
    stored = Int4Quantizer(32).quantize(torch.cat((values, values))[None])
    assert stored["weight_scale"].tolist() == [[sign]]
    pairs = [(first << 4) + second for first, second in zip(range(0, 16, 2), range(1, 16, 2), strict=True)]
    assert stored["weight_packed"][0].tolist() == 2 * pairs
    assert torch.equal(Int4Quantizer(32).dequantize(stored)[0, :16], values)


def test_a_smaller_group_is_more_exact_and_larger() -> None:
    weight_OI = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    errors, sizes = [], []
    for group_size in (256, 128, 64, 32):
        stored = Int4Quantizer(group_size).quantize(weight_OI)
        errors.append((Int4Quantizer(group_size).dequantize(stored) - weight_OI).norm())
        sizes.append(sum(tensor.nbytes for tensor in stored.values()))
    assert errors == sorted(errors, reverse=True)
    assert sizes == [64 * 1024 // 2 + 2 * 64 * 1024 // group_size for group_size in (256, 128, 64, 32)]


class TestKernels:
    """Which kernel runs, its order of codes, and the alignment that it needs."""

    @pytest.mark.parametrize(
        ("spec", "kernel"),
        [
            pytest.param(layer_spec(), CPUInt4Weight, id="bfloat16 on a CPU"),
            pytest.param(layer_spec(dtype=torch.float32), None, id="float32"),
            pytest.param(layer_spec(out_features=24), None, id="rows that fill no block"),
            pytest.param(layer_spec(in_features=128, device="cuda"), CUDAInt4Weight, id="CUDA"),
            pytest.param(layer_spec(in_features=64, device="cuda"), None, id="columns that fill no tile"),
            pytest.param(layer_spec(device="meta"), None, id="another device"),
        ],
    )
    def test_int4_has_kernels_for_bfloat16(
        self, spec: LinearSpec, kernel: type | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        assert kernel_for(spec) is kernel
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
        assert kernel_for(spec) is (None if kernel is CUDAInt4Weight else kernel)

    @pytest.mark.parametrize("out_features", [16, 32, 48, 64, 80, 208, 1040])
    def test_what_the_cpu_kernel_packs_is_unpacked(self, out_features: int) -> None:
        """Whole blocks, a smaller one at the end, and more than are packed at a time."""
        generator = torch.Generator().manual_seed(out_features)
        codes_OI = torch.randint(0, 16, (out_features, 64), generator=generator, dtype=torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
        assert torch.equal(int4_kernels._unpack(packed).int(), codes_OI - 8)
        stored = Int4Quantizer(32).quantize(torch.randn(out_features, 64, generator=generator))
        restored = CPUInt4Weight.of(stored, 32).stored()
        assert all(torch.equal(restored[name], stored[name]) for name in stored)

    def test_the_order_of_cpus_without_vector_instructions_is_unpacked_too(self) -> None:
        """The order depends on the CPU; torch can be told to use fewer instructions than it has."""
        code = """
import torch
from chameleon_backends.quantizers import int4_kernels
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
for rows in (16, 48, 96, 112):
    codes_OI = torch.randint(0, 16, (rows, 64), dtype=torch.int32)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
    assert torch.equal(int4_kernels._unpack(packed).int(), codes_OI - 8)
"""
        environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize(
        "limits",
        [
            pytest.param({}, id="all instructions"),
            pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, id="AVX2"),
            pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}, id="no vectors"),
        ],
    )
    def test_blocks_are_right_with_any_instructions(self, limits: dict[str, str]) -> None:
        """Packing equals torch's, and products on both sides of the number of rows where blocks take over are right."""
        code = """
import torch
from chameleon_backends import LinearSpec, get_weight_quantizer
from chameleon_backends.quantizers.cpu_rows import INT4_ROWS, INT8_ROWS, product_instructions
generator = torch.Generator().manual_seed(0)
spec = LinearSpec(in_features=256, out_features=1072, dtype=torch.bfloat16, device=torch.device("cpu"))
for name, table in (("int8", INT8_ROWS), ("int4", INT4_ROWS)):
    quantizer = get_weight_quantizer(name)
    stored = quantizer.quantize(torch.randn(1072, 256, generator=generator))
    weight_OI, prepared = quantizer.dequantize(stored).double(), quantizer.prepare(stored, spec)
    if name == "int4":
        raised_OI = (weight_OI.unflatten(1, (2, 128)) / stored["weight_scale"].double()[..., None]).flatten(1) + 8
        assert torch.equal(prepared.packed_OJ, torch._convert_weight_to_int4pack_for_cpu(raised_OI.int(), 1))
    most = table[product_instructions()]
    for rows in (1, most, most + 1):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            values_MI = torch.randn(rows, 256, generator=generator).to(dtype)
            expected_MO, terms_MO = values_MI.double() @ weight_OI.T, values_MI.double().abs() @ weight_OI.abs().T
            error_MO = (prepared.multiply(values_MI).double() - expected_MO).abs()
            assert (error_MO <= 2**-6 * terms_MO).all(), (name, rows, dtype)
"""
        environment = os.environ | limits | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    @pytest.mark.parametrize("name", ["int8", "int4"])
    def test_many_rows_never_take_the_whole_weight_in_memory(
        self, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No floating tensor is as large as the weight, whose rows are more than the input's columns."""
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # each has a block of its own
        quantizer = get_weight_quantizer(name)
        count = 4 * BLOCK_ROWS
        stored = quantizer.quantize(torch.randn(count, 256, generator=torch.Generator().manual_seed(0)))
        weight = quantizer.prepare(stored, layer_spec(256, count, dtype=dtype))
        sizes = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **kwargs or {})
                if isinstance(result, Tensor) and result.is_floating_point():
                    sizes.append(result.numel())
                return result

        with Watch():
            weight.multiply(torch.ones(150, 256, dtype=dtype))
        assert max(sizes) == 150 * count, "the output is the largest"

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    @pytest.mark.parametrize("name", ["int8", "int4"])
    def test_products_of_many_rows_are_the_same_for_any_number_of_threads(
        self, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many rows a block has, the last of which is smaller."""
        quantizer, count = get_weight_quantizer(name), 5 * BLOCK_ROWS + 16
        generator = torch.Generator().manual_seed(0)
        stored = quantizer.quantize(torch.randn(count, 64 if name == "int8" else 128, generator=generator))
        weight_OI = quantizer.dequantize(stored)
        weight = quantizer.prepare(stored, layer_spec(weight_OI.shape[1], count, dtype=dtype))
        input_MI = torch.randn(150, weight_OI.shape[1], generator=generator).to(dtype)
        rows = set()
        for threads in (1, 2, 3, 64):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            rows.add(block_rows())
            expected_MO = input_MI.float() @ weight_OI.T
            tolerance = {"atol": 0.3, "rtol": 0.02} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(weight.multiply(input_MI).float(), expected_MO, **tolerance)
        assert rows == {512, 1024, 1536, 4096}

    @pytest.mark.parametrize("rows", [1, 3, 40])
    def test_the_cuda_kernel_is_called_as_torch_documents_it(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against a stand-in on the CPU: two codes a byte, the first high; (code − 8) · scale + zero."""

        def convert(packed_OJ: Tensor, inner_tiles: int) -> Tensor:
            assert packed_OJ.dtype == torch.uint8
            assert packed_OJ.is_contiguous()
            assert packed_OJ.shape[1] * 2 % (16 * inner_tiles) == 0
            return torch.stack((packed_OJ >> 4, packed_OJ & 15), dim=-1).flatten(1).int().flip(1)

        def multiply(input_NI: Tensor, tiles: Tensor, group_size: int, scales_and_zeros: Tensor) -> Tensor:
            assert input_NI.dtype == scales_and_zeros.dtype == torch.bfloat16
            assert input_NI.is_contiguous()
            assert scales_and_zeros.is_contiguous()
            assert scales_and_zeros.shape == (input_NI.shape[1] // group_size, len(tiles), 2)
            scale_OI, zero_OI = scales_and_zeros.float().transpose(0, 1).repeat_interleave(group_size, 1).unbind(-1)
            return (input_NI.float() @ ((tiles.flip(1) - 8) * scale_OI + zero_OI).T).bfloat16()

        monkeypatch.setattr(torch, "_convert_weight_to_int4pack", convert)
        monkeypatch.setattr(torch, "_weight_int4pack_mm", multiply)
        generator = torch.Generator().manual_seed(0)
        quantizer = Int4Quantizer(64)
        stored = quantizer.quantize(torch.randn(48, 640, generator=generator))
        weight = CUDAInt4Weight.of(stored, 64)
        values_NI = torch.randn(rows, 640, generator=generator).bfloat16()
        expected = values_NI.float() @ quantizer.dequantize(stored).T
        torch.testing.assert_close(weight.multiply(values_NI), expected.bfloat16())
        torch.testing.assert_close(weight.multiply(values_NI.float()), expected)
        restored = weight.stored()
        assert all(torch.equal(restored[name], stored[name]) for name in stored)

    @pytest.mark.parametrize(
        ("spec", "rows"),
        [
            pytest.param(layer_spec(), INT8_ROWS[product_instructions()], id="bfloat16 on a CPU"),
            pytest.param(layer_spec(dtype=torch.float32), 0, id="float32 on a CPU"),
            pytest.param(layer_spec(in_features=24), 0, id="columns that a vector doesn't fill"),
            pytest.param(layer_spec(dtype=torch.float16, device="cuda"), 4, id="CUDA"),
            pytest.param(layer_spec(device="meta"), 0, id="another device"),
        ],
    )
    def test_int8_has_kernels_for_a_few_rows(
        self, spec: LinearSpec, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: True)
        stored = Int8Quantizer().quantize(torch.randn(spec.out_features, spec.in_features))
        weight = Int8Quantizer().prepare(stored, spec)
        assert isinstance(weight, Int8Weight)
        assert weight.kernel_rows == rows

    def test_tensors_of_mapped_files_are_moved_where_kernels_may_read(self) -> None:
        """A file's tensors begin at any multiple of 8; other aligned loads crash the process."""
        buffer = torch.zeros(48 * 64 + 8, dtype=torch.int8)
        off = buffer[8:].view(48, 64)
        assert off.data_ptr() % ALIGNMENT
        assert aligned(off).data_ptr() % ALIGNMENT == 0
        weight = Int8Quantizer().prepare({"weight": off, "weight_scale": torch.ones(48).bfloat16()}, layer_spec())
        assert weight.stored()["weight"].data_ptr() % ALIGNMENT == 0
        plain = Int8Quantizer().prepare(
            {"weight": off, "weight_scale": torch.ones(48).bfloat16()}, layer_spec(dtype=torch.float32)
        )
        assert plain.stored()["weight"].data_ptr() == off.data_ptr()

    @pytest.mark.parametrize("supported", [True, False])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_a_product_is_right_in_either_way_of_computing_it(
        self, dtype: torch.dtype, supported: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
        generator = torch.Generator().manual_seed(0)
        values_NI = torch.randn(5, 64, generator=generator).to(dtype)
        weight_OI = torch.randn(48, 64, generator=generator)
        out_NO = multiply_dense(values_NI, weight_OI)
        assert out_NO.dtype == dtype
        terms_NO = values_NI.double().abs() @ weight_OI.double().abs().T
        error_NO = (out_NO.double() - values_NI.double() @ weight_OI.double().T).abs()
        assert (error_NO <= TOLERANCES[dtype] * terms_NO).all()


class TestRegistry:
    """The names, and the errors where they can't be used."""

    def test_the_builtins_are_registered(self) -> None:
        assert weight_quantizer_names()[:5] == ("int8", "int4", "bnb-nf4", "bnb-int8", "torchao")

    def test_an_unknown_name_is_an_error_with_the_closest(self) -> None:
        with pytest.raises(UnknownPluginError, match=r"no weight quantizer named 'int3'.*Did you mean 'int"):
            get_weight_quantizer("int3")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"groupsize": 32},
                r"'int4' has no option 'groupsize'; its options are: group_size\. Did you mean 'group_size'\?",
            ),
            ({"group_size": 48}, r"group_size is 48; it must be one of \(32, 64, 128, 256\)"),
            ({"group_size": "64"}, r"group_size is '64'; it must be one of"),
            ({"group_size": 64.0}, r"group_size is 64\.0; it must be one of"),
            ({"group_size": [64]}, r"group_size is \[64\]; it must be one of"),
        ],
    )
    def test_impossible_options_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            get_weight_quantizer("int4", **options)

    @pytest.mark.parametrize(
        ("in_features", "reason"),
        [
            (128, None),
            (192, "192 input features aren't a multiple of the group size 128; group_size may be 32 or 64"),
            (100, "100 input features aren't a multiple of the group size 128; int8 takes any width"),
        ],
    )
    def test_a_width_that_groups_do_not_fill_is_refused_with_sizes_that_do(
        self, in_features: int, reason: str | None
    ) -> None:
        assert why_quantizer_unsupported("int4", layer_spec(in_features)) == reason
        if reason is not None:
            with pytest.raises(UnsupportedWeightError, match=reason):
                QuantizedLinear.from_linear(torch.nn.Linear(in_features, 16), get_weight_quantizer("int4"))

    @pytest.mark.parametrize(
        ("name", "package"), [("bnb-nf4", "bitsandbytes"), ("bnb-int8", "bitsandbytes"), ("torchao", "torchao")]
    )
    def test_a_missing_package_is_named_with_its_install_line(
        self, name: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bnb.importlib.util, "find_spec", lambda name: None)
        reason = f"{package} isn't installed: pip install './packages/chameleon-backends[{package}]'"
        assert why_quantizer_unavailable(name) == why_quantizer_unsupported(name, layer_spec()) == reason
        with pytest.raises(UnsupportedWeightError, match=f"{name!r} can't run here: {package} isn't installed"):
            get_weight_quantizer(name)

    @pytest.mark.parametrize(
        ("record", "error", "message"),
        [
            ({"quant_method": "gptq"}, UnknownPluginError, "no weight quantizer named 'gptq'"),
            ({"bits": 4}, ConfigError, "must be a mapping with a string 'quant_method', got {'bits': 4}"),
            (["int8"], ConfigError, "must be a mapping with a string 'quant_method', got"),
            ({"quant_method": "bnb-nf4"}, ConfigError, "'bnb-nf4' can't read the record"),
        ],
    )
    def test_a_record_of_no_installed_quantizer_is_an_error(
        self, record: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            find_quantizer(record)

    def test_impossible_layers_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="in_features is 0; it must be an integer ≥ 1"):
            layer_spec(0)
        with pytest.raises(ConfigError, match=r"dtype is torch.int8; it must be a floating type"):
            layer_spec(dtype=torch.int8)
        assert not TensorLayout(torch.int8, (None, 2)).fits(TensorLayout(torch.int8, (3,)))
        assert TensorLayout(torch.int8, (None, 2)).fits(TensorLayout(torch.int8, (3, 2)))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_blocks_in_one_piece_of_memory_are_right_in_any_mode_thread_and_dtype(name: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(256, rows, bias=False, dtype=torch.bfloat16) for rows in (96, 48, 1600)]
    quantizer = get_weight_quantizer(name)
    prepared = [QuantizedLinear.from_linear(layer, quantizer).prepared for layer in layers]
    inputs = [torch.randn(rows, 256).bfloat16() for rows in (40, 3, 70)]

    def products() -> list[Tensor]:
        return [weight.multiply_blocks(input_MI) for weight in prepared for input_MI in inputs]  # type: ignore[union-attr]

    with torch.inference_mode():
        expected = products()
    with torch.no_grad():
        again = products()
        wide = [weight.multiply_blocks(input_MI.float()) for weight in prepared for input_MI in inputs]  # type: ignore[union-attr]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        threads = [future.result() for future in [pool.submit(products) for _ in range(8)]]
    for each in (again, *threads):
        assert all(map(torch.equal, each, expected))
    for one, other in zip(wide, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=0.02, atol=0.02)
