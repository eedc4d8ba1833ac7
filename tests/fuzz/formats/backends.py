"""What chameleon-backends reads: the record of a quantization, and the options in it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from chameleon_backends import LinearSpec, find_quantizer, get_weight_quantizer
from chameleon_backends.errors import ChameleonBackendsError

from ..engine import Files, Format
from ..mutations import mutate_json
from . import seeds
from .seeds import words

WORDS = words(
    """
    quant_method bitsandbytes load_in_4bit load_in_8bit bnb_4bit_quant_type nf4 fp4 torchao bnb_4bit_compute_dtype
    bnb_4bit_use_double_quant llm_int8_threshold llm_int8_skip_modules int8 int4 group_size bits symmetric
    modules_to_not_convert compute_dtype threshold bnb-nf4 bnb-int8 bnb_4bit_quant_storage gptq awq weights format
    quant_type version
    """
)


def _records() -> Files:
    """Our own record of int4, and those that other libraries write."""
    own = json.loads(seeds.quantized_files("int4")["config.json"])["quantization_config"]
    theirs = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": ["lm_head"],
    }
    return {"records.json": json.dumps([own, theirs]).encode()}


def _read(folder: Path) -> None:
    try:
        records = json.loads((folder / "records.json").read_bytes())
    except (ValueError, RecursionError):
        return
    for record in records if isinstance(records, list) else [records]:
        method, options = find_quantizer(record)
        quantizer = get_weight_quantizer(method, **options)
        spec = LinearSpec(in_features=32, out_features=32, dtype=torch.float32, device=torch.device("cpu"))
        if quantizer.unsupported(spec) is None:
            quantizer.layout(32, 32)
            quantizer.dequantize(quantizer.quantize(torch.zeros(32, 32)))


FORMATS = (
    Format(
        "backends-record",
        _records,
        mutate_json("records.json", WORDS),
        _read,
        ChameleonBackendsError,
        "quantization_config: find_quantizer, get_weight_quantizer",
        share=3,
        needs="bitsandbytes",
    ),
)
