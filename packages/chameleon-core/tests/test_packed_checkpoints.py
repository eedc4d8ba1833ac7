"""Folders of GPTQ, AWQ and compressed-tensors, read as their published definitions say, computed apart from the reader.

Each test packs codes number by number with Python's integers, and dequantizes them element by element.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chameleon_backends import QuantizedLinear
from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.errors import ConfigError, FileFormatError, WeightsError
from chameleon_core.testing import make_config, make_model

CONFIG = make_config(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_key_value_heads=2)
IDS_T = torch.arange(16) * 3 % 64
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


def signed(number: int) -> int:
    """Return 32 bits as the number that int32 holds."""
    return number - 2**32 if number >= 2**31 else number


def pack(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Pack the columns of codes: the first of ``order`` in the lowest bits."""
    factor = 32 // bits
    order = order or tuple(range(factor))
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % factor))
    rows = [
        [
            signed(sum(int(row[start + column]) << place * bits for place, column in enumerate(order)))
            for start in range(0, len(row), factor)
        ]
        for row in padded.tolist()
    ]
    return torch.tensor(rows, dtype=torch.int32)


class Drawn:
    """Codes, scales and zero points of one layer, and the weight that they stand for, float32."""

    def __init__(self, name: str, shape: tuple[int, int], bits: int, group: int, dtype: torch.dtype, **options: bool):
        generator = torch.Generator().manual_seed(len(name) + shape[0])
        outputs, inputs = shape
        groups = 1 if group == -1 else inputs // group
        self.codes = torch.randint(2**bits, shape, generator=generator)
        spread = 2.0 / inputs**0.5 / 2 ** (bits - 1)
        self.scales = ((torch.rand(outputs, groups, generator=generator) + 0.5) * spread).to(dtype)
        middle = torch.full((outputs, groups), 2 ** (bits - 1))
        self.zeros = (
            middle if options.get("symmetric") else torch.randint(1, 2**bits, middle.shape, generator=generator)
        )
        self.group = torch.arange(inputs) // (inputs if group == -1 else group)
        if options.get("shuffled"):
            self.group = self.group[torch.randperm(inputs, generator=generator)]
        self.weight = torch.tensor(
            [
                [
                    float(self.scales[row, self.group[column]])
                    * (int(self.codes[row, column]) - int(self.zeros[row, self.group[column]]))
                    for column in range(inputs)
                ]
                for row in range(outputs)
            ]
        )


def gptq_parts(drawn: Drawn, bits: int, plus_one: bool) -> dict[str, Tensor]:
    return {
        "qweight": pack(drawn.codes, bits).T.contiguous(),
        "qzeros": pack(drawn.zeros.T - int(plus_one), bits),
        "scales": drawn.scales.T.contiguous(),
        "g_idx": drawn.group.to(torch.int32),
    }


def awq_parts(drawn: Drawn) -> dict[str, Tensor]:
    return {
        "qweight": pack(drawn.codes.T, 4, AWQ_COLUMNS),
        "qzeros": pack(drawn.zeros.T, 4, AWQ_COLUMNS),
        "scales": drawn.scales.T.contiguous(),
    }


def packed_parts(drawn: Drawn, bits: int, symmetric: bool) -> dict[str, Tensor]:
    parts = {
        "weight_packed": pack(drawn.codes, bits),
        "weight_scale": drawn.scales,
        "weight_shape": torch.tensor(drawn.codes.shape),
    }
    return parts if symmetric else {**parts, "weight_zero_point": pack(drawn.zeros.T, bits).T.contiguous()}


def int_parts(drawn: Drawn, symmetric: bool) -> dict[str, Tensor]:
    parts = {"weight": (drawn.codes - 128).to(torch.int8), "weight_scale": drawn.scales}
    return parts if symmetric else {**parts, "weight_zero_point": (drawn.zeros - 128).to(torch.int8)}


def compressed_record(layout: str, bits: int, strategy: str, symmetric: bool, group: int | None) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "sparsity_config": {"format": "dense"},
    }


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
F16, BF16 = torch.float16, torch.bfloat16
Make = Callable[[str, tuple[int, int]], tuple[Drawn, dict[str, Tensor]]]


def gptq_case(bits: int, group: int, dtype: torch.dtype, version: str = "gptq", **options: bool) -> Any:
    def make(name: str, shape: tuple[int, int]) -> tuple[Drawn, dict[str, Tensor]]:
        drawn = Drawn(name, shape, bits, group, dtype, **options)
        return drawn, gptq_parts(drawn, bits, version == "gptq")

    record = {**GPTQ, "bits": bits, "group_size": group, "sym": options.get("symmetric", False)}
    return make, {**record, "desc_act": options.get("shuffled", False), "checkpoint_format": version}, dtype


def awq_case(group: int, dtype: torch.dtype = F16) -> Any:
    def make(name: str, shape: tuple[int, int]) -> tuple[Drawn, dict[str, Tensor]]:
        drawn = Drawn(name, shape, 4, group, dtype)
        return drawn, awq_parts(drawn)

    return make, {**AWQ, "group_size": group}, dtype


def packed_case(bits: int, group: int, dtype: torch.dtype, symmetric: bool) -> Any:
    def make(name: str, shape: tuple[int, int]) -> tuple[Drawn, dict[str, Tensor]]:
        drawn = Drawn(name, shape, bits, group, dtype, symmetric=symmetric)
        return drawn, packed_parts(drawn, bits, symmetric)

    strategy = "channel" if group == -1 else "group"
    return make, compressed_record("pack-quantized", bits, strategy, symmetric, None if group == -1 else group), dtype


def int_case(group: int, dtype: torch.dtype, symmetric: bool) -> Any:
    def make(name: str, shape: tuple[int, int]) -> tuple[Drawn, dict[str, Tensor]]:
        drawn = Drawn(name, shape, 8, group, dtype, symmetric=symmetric)
        return drawn, int_parts(drawn, symmetric)

    strategy = "channel" if group == -1 else "group"
    return make, compressed_record("int-quantized", 8, strategy, symmetric, None if group == -1 else group), dtype


FLOAT = {
    "gptq, 4 bits, float16": gptq_case(4, 32, F16, symmetric=True),
    "gptq, 4 bits, zero points": gptq_case(4, 32, BF16),
    "gptq, 8 bits, whole rows": gptq_case(8, -1, F16),
    "gptq_v2, 4 bits": gptq_case(4, 16, F16, "gptq_v2"),
    "gptq, by activation": gptq_case(4, 32, BF16, symmetric=True, shuffled=True),
    "awq": awq_case(32),
    "awq, whole rows": awq_case(-1),
    "pack-quantized, 4 bits, zero points": packed_case(4, 32, BF16, False),
    "pack-quantized, 4 bits, small groups": packed_case(4, 16, BF16, True),
    "pack-quantized, 4 bits, rows": packed_case(4, -1, F16, True),
    "pack-quantized, 8 bits, groups": packed_case(8, 32, BF16, True),
    "pack-quantized, 4 bits, float16": packed_case(4, 32, F16, True),
    "int-quantized, zero points": int_case(-1, BF16, False),
    "int-quantized, groups": int_case(32, BF16, True),
}
OURS = {
    "gptq, bfloat16 scales": (*gptq_case(4, 32, BF16, symmetric=True), "int4"),
    "gptq_v2, bfloat16 scales": (*gptq_case(4, 32, BF16, "gptq_v2", symmetric=True), "int4"),
    "gptq, 8 bits, whole rows": (*gptq_case(8, -1, BF16, symmetric=True), "int8"),
    "pack-quantized, 4 bits": (*packed_case(4, 32, BF16, True), "int4"),
    "pack-quantized, 8 bits, rows": (*packed_case(8, -1, BF16, True), "int8"),
    "int-quantized, rows": (*int_case(-1, BF16, True), "int8"),
}


def quantized_folder(folder: Path, make: Make, record: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Write a folder whose linear layers are quantized, but for the output layer.

    Return its weights, those of quantized layers in float32.
    """
    make_model(CONFIG).to(dtype).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    expected = dict(stored)
    for name in [each for each in stored if each.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        weight = stored.pop(name)
        drawn, parts = make(layer, (weight.shape[0], weight.shape[1]))
        expected[name] = drawn.weight
        stored |= {f"{layer}.{part}": each for part, each in parts.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "quantization_config": record}))
    return expected


def logits_of(model: ChameleonForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        logits_TV: Tensor = model(IDS_T[None]).logits[0]
    return logits_TV


def float_logits(expected: dict[str, Tensor]) -> Tensor:
    model = make_model(CONFIG).float()
    model.load_state_dict({name: each.float() for name, each in expected.items()})
    return logits_of(model)


@pytest.mark.parametrize("name", FLOAT)
def test_what_our_layers_do_not_hold_is_dequantized(name: str, tmp_path: Path) -> None:
    make, record, dtype = FLOAT[name]
    expected = quantized_folder(tmp_path, make, record, dtype)
    checkpoint = read_checkpoint(tmp_path)
    assert "quantization_config" not in checkpoint.config.extras
    assert checkpoint.tensors.keys() == expected.keys()
    for each, tensor in checkpoint.tensors.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor.load(), expected[each].to(dtype)), each
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path, dtype="float32")
    rounded = {each: weight.to(dtype) for each, weight in expected.items()}
    torch.testing.assert_close(logits_of(model), float_logits(rounded), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_what_our_layers_hold_exactly_stays_quantized(name: str, tmp_path: Path) -> None:
    make, record, dtype, quantizer = OURS[name]
    expected = quantized_folder(tmp_path / "theirs", make, record, dtype)
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "theirs", dtype="float32")
    assert model.config.extras["quantization_config"]["quant_method"] == quantizer
    layers = {each: layer for each, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    assert len(layers) == 7
    for each, layer in layers.items():
        assert torch.equal(layer.dequantize(), expected[f"{each}.weight"]), each
    torch.testing.assert_close(logits_of(model), float_logits(expected), rtol=0, atol=1e-4)
    # Saved, and converted, it is a folder of ours.
    model.save_pretrained(tmp_path / "saved")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    for folder in ("saved", "ours"):
        again = ChameleonForConditionalGeneration.from_pretrained(tmp_path / folder, dtype="float32")
        assert torch.equal(logits_of(again), logits_of(model))
    convert_checkpoint(tmp_path / "theirs", tmp_path / "float", dequantize=True)
    floats = read_checkpoint(tmp_path / "float")
    assert "quantization_config" not in floats.config.extras
    assert all(torch.equal(floats.tensors[each].load(), weight.to(dtype)) for each, weight in expected.items())


def test_codes_and_zero_points_by_hand(tmp_path: Path) -> None:
    # GPTQ 4 bits: rows 0 … 7 of a column are the hexadecimal digits from the right; zero points are stored less one.
    parts = {
        "qweight": torch.tensor([[0x76543210], [signed(0xFEDCBA98)]], dtype=torch.int32).repeat(1, 8),
        "qzeros": torch.tensor([[0x77777774]], dtype=torch.int32),
        "scales": torch.full((1, 8), 0.5, dtype=F16),
        "g_idx": torch.zeros(16, dtype=torch.int32),
    }
    found = layer_of(tmp_path, parts, {**GPTQ, "group_size": 16, "sym": False})
    assert found[0].tolist() == [(code - 5) / 2 for code in range(16)]
    assert found[1].tolist() == [(code - 8) / 2 for code in range(16)]


def test_columns_of_awq_by_hand(tmp_path: Path) -> None:
    # The digits from the right are the columns 0, 2, 4, 6, 1, 3, 5, 7.
    parts = {
        "qweight": torch.full((16, 1), 0x75316420, dtype=torch.int32),
        "qzeros": torch.tensor([[0x11111111]], dtype=torch.int32),
        "scales": torch.ones(1, 8, dtype=F16),
    }
    found = layer_of(tmp_path, parts, {**AWQ, "group_size": 16})
    assert found[:, 3].tolist() == [code - 1 for code in range(8)]


def layer_of(folder: Path, parts: dict[str, Tensor], record: dict[str, Any]) -> Tensor:
    """Return the one quantized layer of a folder, [O, I]."""
    make_model(CONFIG).half().save_pretrained(folder)
    name = "model.layers.0.mlp.up_proj"
    stored = load_file(folder / "model.safetensors")
    del stored[f"{name}.weight"]
    stored |= {f"{name}.{part}": each for part, each in parts.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "quantization_config": record}))
    return read_checkpoint(folder).tensors[f"{name}.weight"].load()


def test_a_scale_of_the_whole_layer(tmp_path: Path) -> None:
    parts = {"weight": torch.arange(-8, 8).to(torch.int8).repeat(4, 1), "weight_scale": torch.tensor([0.25], dtype=F16)}
    found = layer_of(tmp_path, parts, compressed_record("int-quantized", 8, "tensor", True, None))
    assert found.tolist() == [[code / 4 for code in range(-8, 8)]] * 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gptq, 3 bits": ({**GPTQ, "bits": 3}, "GPTQ of 3 bits"),
    "gptq, 2 bits": ({**GPTQ, "bits": 2}, "GPTQ of 2 bits"),
    "gptq, marlin": ({**GPTQ, "checkpoint_format": "marlin"}, "GPTQ in the layout 'marlin'"),
    "gptq, marlin of old": ({**GPTQ, "is_marlin_format": True}, "GPTQ in the layout 'marlin'"),
    "gptq, rules for layers": ({**GPTQ, "dynamic": {"-:x": {}}}, "GPTQ with dynamic"),
    "gptq, other numbers": ({**GPTQ, "pack_dtype": "int16"}, "GPTQ with pack_dtype 'int16'"),
    "awq, gemv": ({**AWQ, "version": "GEMV"}, "AWQ with version 'gemv'"),
    "awq, 8 bits": ({**AWQ, "bits": 8}, "AWQ of 8 bits"),
    "awq, no zero points": ({**AWQ, "zero_point": False}, "AWQ with zero_point false"),
    "float8": (compressed_record("float-quantized", 8, "channel", True, None), "in the format 'float-quantized'"),
    "marlin-24": (compressed_record("marlin-24", 4, "group", True, 128), "in the format 'marlin-24'"),
    "2 bits": (compressed_record("pack-quantized", 2, "group", True, 32), "compressed-tensors of 2 bits"),
    "blocks": (compressed_record("int-quantized", 8, "block", True, None), "the strategy 'block'"),
    "sparse": (
        {
            **compressed_record("int-quantized", 8, "channel", True, None),
            "sparsity_config": {"format": "sparse-24-bitmask"},
        },
        "with sparse weights",
    ),
    "activations": (
        {
            **compressed_record("int-quantized", 8, "channel", True, None),
            "config_groups": {
                "a": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8, "dynamic": True}}
            },
        },
        "that quantizes activations",
    ),
    "float weights": (
        {
            **compressed_record("int-quantized", 8, "channel", True, None),
            "config_groups": {"a": {"weights": {"num_bits": 8, "type": "float"}}},
        },
        "of the type 'float'",
    ),
    "cache": (
        {**compressed_record("int-quantized", 8, "channel", True, None), "kv_cache_scheme": {"num_bits": 8}},
        "with kv_cache_scheme",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_quantizations_are_refused_by_name(name: str, tmp_path: Path) -> None:
    record, said = REFUSED[name]
    make_model(CONFIG).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "quantization_config": record}))
    with pytest.raises(ConfigError, match=said) as caught:
        read_checkpoint(tmp_path)
    assert "Load the float model, and quantize it here: from_pretrained(folder, quantization='int4')." in str(
        caught.value
    )


def test_a_record_without_quantized_tensors_is_said(tmp_path: Path) -> None:
    make_model(CONFIG).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "quantization_config": GPTQ}))
    with pytest.raises(FileFormatError, match="has no tensors of a quantized layer"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "pack-quantized"])
@pytest.mark.parametrize("fault", ["missing", "shape", "type", "empty"])
def test_broken_parts_are_refused(method: str, fault: str, tmp_path: Path) -> None:
    case = {"gptq": "gptq, 4 bits, zero points", "awq": "awq", "pack-quantized": "pack-quantized, 4 bits, zero points"}
    make, record, dtype = FLOAT[case[method]]
    quantized_folder(tmp_path, make, record, dtype)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj." + ("weight_scale" if method == "pack-quantized" else "scales")
    changed = {
        "shape": stored[name][:-1].contiguous(),
        "type": stored[name].to(torch.int32),
        "empty": stored[name][:0],
    }
    stored.pop(name)
    if fault != "missing":
        stored[name] = changed[fault]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match=name.rpartition(".")[0]):
        read_checkpoint(tmp_path)


def test_groups_beyond_the_scales_are_refused(tmp_path: Path) -> None:
    make, record, dtype = FLOAT["gptq, by activation"]
    quantized_folder(tmp_path, make, record, dtype)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.g_idx"][3] = 77
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match=r"g_idx has groups from 0 to 77, and there are 2 groups"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["qzeros", "g_idx"])
def test_tensors_that_contradict_the_configuration_are_refused(part: str, tmp_path: Path) -> None:
    make, record, dtype, _ = OURS["gptq, bfloat16 scales"]
    quantized_folder(tmp_path, make, record, dtype)
    stored = load_file(tmp_path / "model.safetensors")
    stored[f"model.layers.0.mlp.up_proj.{part}"].view(-1)[0] = 1
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match=r"Read\s+it with dequantize=True, or correct the configuration"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert (
        read_checkpoint(tmp_path, dequantize=True).tensors["model.layers.0.mlp.up_proj.weight"].load().isfinite().all()
    )


def test_sizes_that_contradict_the_model_are_named(tmp_path: Path) -> None:
    make, record, dtype = FLOAT["awq"]
    quantized_folder(tmp_path, make, record, dtype)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "intermediate_size": 64}))
    with pytest.raises(WeightsError, match=r"up_proj\.weight \(stored \[96, 64\], the config says \[64, 64\]\)"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)


def test_dequantize_is_for_other_libraries(tmp_path: Path) -> None:
    make_model(CONFIG).save_pretrained(tmp_path / "float")
    ChameleonForConditionalGeneration.from_pretrained(tmp_path / "float", quantization="int8").save_pretrained(
        tmp_path / "q"
    )
    assert read_checkpoint(tmp_path / "float", dequantize=True).tensors
    with pytest.raises(
        ConfigError, match="is quantized by 'int8'; dequantize=True is for gptq, awq, compressed-tensors"
    ):
        read_checkpoint(tmp_path / "q", dequantize=True)
