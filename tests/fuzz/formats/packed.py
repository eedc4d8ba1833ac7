"""What chameleon-core reads of other libraries' quantized folders: their records, codes, scales and zero points."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from chameleon_core import ChameleonCoreError

from ..engine import Files, Format
from ..mutations import mutate_json, mutate_safetensors
from . import seeds
from .core import read_model
from .seeds import words, written

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WORDS = words(
    """
    quantization_config quant_method gptq awq compressed-tensors bits group_size sym desc_act zero_point version gemm
    checkpoint_format gptq_v2 format pack-quantized int-quantized config_groups weights num_bits strategy group channel
    symmetric input_activations sparsity_config kv_cache_scheme
    """
)
RECORDS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False, "desc_act": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}}
        },
    },
}


@cache
def _files(method: str) -> Files:
    """The model with random codes in place of the weights of its layers."""

    def write(folder: Path) -> None:
        for name, data in seeds.model_files().items():
            (folder / name).write_bytes(data)
        generator = torch.Generator().manual_seed(0)
        tensors = load_file(folder / WEIGHTS)
        for name in [each for each in tensors if each.endswith("_proj.weight")]:
            outputs, inputs = tensors.pop(name).shape
            for part, (shape, kind) in _parts(method, outputs, inputs).items():
                drawn = torch.rand(shape, generator=generator)
                value = drawn / 8 if kind == torch.float32 else (drawn * 2**31).to(kind)
                if part == "g_idx":
                    value = torch.arange(inputs, dtype=kind) // 16
                tensors[f"{name.removesuffix('.weight')}.{part}"] = value
            if method == "compressed-tensors":
                tensors[f"{name}_shape"] = torch.tensor([outputs, inputs])
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        data = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**data, "quantization_config": RECORDS[method]}))

    return written(write)


def _parts(method: str, outputs: int, inputs: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    groups = inputs // 16
    if method == "compressed-tensors":
        return {
            "weight_packed": ((outputs, inputs // 8), torch.int32),
            "weight_scale": ((outputs, groups), torch.float32),
        }
    stored = {"qzeros": ((groups, outputs // 8), torch.int32), "scales": ((groups, outputs), torch.float32)}
    if method == "awq":
        return {"qweight": ((inputs, outputs // 8), torch.int32), **stored}
    return {"qweight": ((inputs // 8, outputs), torch.int32), "g_idx": ((inputs,), torch.int32), **stored}


def _mutate(random: Random, files: Files) -> list[str]:
    if random.random() < 0.5:
        return mutate_json(CONFIG, WORDS)(random, files)
    return mutate_safetensors(WEIGHTS)(random, files)


FORMATS = tuple(
    Format(
        f"core-{method}",
        partial(_files, method),
        _mutate,
        read_model,
        error=ChameleonCoreError,
        what=f"a folder of {method}: ChameleonForConditionalGeneration.from_pretrained, forward",
        share=0.3,
    )
    for method in RECORDS
)
