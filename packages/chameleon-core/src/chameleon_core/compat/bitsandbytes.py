"""``BitsAndBytesConfig``: how ``transformers`` asks for bitsandbytes, as a ``Quantization`` of this toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .._config import rejects_unknown_fields
from ..checkpoints.quantization_plan import OUTPUT_LAYER, Quantization
from ..errors import ConfigError

_METHOD = "bitsandbytes"
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "llm_int8_enable_fp32_cpu_offload": ((False, None), "put the whole model on one device, or use device_map"),
    "llm_int8_has_fp16_weight": ((False, None), "fine-tune adapters on the quantized layers instead"),
    "bnb_4bit_quant_storage": ((None, "uint8"), "the codes are stored as bytes"),
}
"""Fields with one possible value here, and what to do instead of another."""
_OTHERS = {
    "torchao": "quantization=Quantization('torchao', {'config': 'Int8WeightOnlyConfig'})",
    "gptq": "quantization='int4' of a float checkpoint",
    "awq": "quantization='int4' of a float checkpoint",
    "hqq": "quantization='int4'",
    "quanto": "quantization='int8'",
}
"""What replaces the configurations of other quantizers of ``transformers``."""


@rejects_unknown_fields
@dataclass
class BitsAndBytesConfig:
    """Load a model in 4 or 8 bits by bitsandbytes: the fields and defaults of ``transformers``' class.

    Pass it as ``quantization_config``. The short way is ``quantization="bnb-nf4"`` or ``"bnb-int8"``. Raises
    ``ConfigError`` where both or neither number of bits is requested, when it is used.
    """

    load_in_8bit: bool = False
    """Whether to use LLM.int8(): 8 bits a weight."""
    load_in_4bit: bool = False
    """Whether to use 4 bits a weight."""
    llm_int8_threshold: float = 6.0
    """Columns of the input with a value above it are multiplied in the input's dtype; ≥ 0, by default 6."""
    llm_int8_skip_modules: Sequence[str] | None = None
    """Names of layers, or beginnings or ends of them, that stay float; None, the default, is the output layer."""
    llm_int8_enable_fp32_cpu_offload: bool = False
    """Can only be False: no layer is kept on the CPU in float32."""
    llm_int8_has_fp16_weight: bool = False
    """Can only be False: the weights aren't kept in 16 bits."""
    bnb_4bit_compute_dtype: torch.dtype | str | None = None
    """What products are computed in; None, the default, is float32."""
    bnb_4bit_quant_type: str = "fp4"
    """The 4-bit values: only "nf4" is available. The default, as in ``transformers``, is "fp4"."""
    bnb_4bit_use_double_quant: bool = False
    """Whether the scales of blocks are quantized, too; by default False."""
    bnb_4bit_quant_storage: torch.dtype | str | None = None
    """What holds the codes: only uint8, which None means, too."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as ``config.json`` has them under ``quantization_config``."""
        fields = asdict(self)
        fields["bnb_4bit_compute_dtype"] = _dtype_name(self.bnb_4bit_compute_dtype) or "float32"
        fields["bnb_4bit_quant_storage"] = _dtype_name(self.bnb_4bit_quant_storage) or "uint8"
        return {"quant_method": _METHOD, **fields}


def quantization_of(config: Any) -> str | Quantization:
    """Return the quantization that a ``quantization_config`` asks for.

    It is one of this toolkit, an object with ``to_dict`` such as ``transformers.BitsAndBytesConfig``, or its mapping.
    Raises ``ConfigError`` for what isn't available, with what to use instead.
    """
    if isinstance(config, str | Quantization):
        return config
    fields = config.to_dict() if callable(getattr(config, "to_dict", None)) else config
    if not isinstance(fields, Mapping):
        raise ConfigError(
            f"quantization_config is a {type(config).__name__}; expected a BitsAndBytesConfig, its mapping, or a "
            "Quantization."
        )
    method = fields.get("quant_method", _METHOD)
    method = str(getattr(method, "value", method))
    if method != _METHOD:
        instead = _OTHERS.get(method, "quantization='int8' or 'int4'")
        raise ConfigError(f"quantization_config asks for {method!r}, which isn't read here: pass {instead}.")
    known = {*BitsAndBytesConfig.__dataclass_fields__, "quant_method", "_load_in_4bit", "_load_in_8bit"}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ConfigError(f"quantization_config has {unknown[0]!r}, which BitsAndBytesConfig has no field for.")
    for name, (allowed, instead) in _ONLY.items():
        value = fields.get(name)
        if (_dtype_name(value) if isinstance(value, torch.dtype) else value) not in allowed:
            raise ConfigError(f"quantization_config.{name} can't be {value!r} here: {instead}.")
    four, eight = bool(fields.get("load_in_4bit")), bool(fields.get("load_in_8bit"))
    if four == eight:
        raise ConfigError(
            f"quantization_config has load_in_4bit={four} and load_in_8bit={eight}; expected one of them to be True."
        )
    skip = tuple(_patterns(fields.get("llm_int8_skip_modules")))
    if eight:
        return Quantization("bnb-int8", {"threshold": fields.get("llm_int8_threshold", 6.0)}, skip=skip)
    if fields.get("bnb_4bit_quant_type", "fp4") != "nf4":
        raise ConfigError(
            f"quantization_config.bnb_4bit_quant_type is {fields.get('bnb_4bit_quant_type', 'fp4')!r}, and only 'nf4' "
            "is available, which is more exact for the same bytes: pass bnb_4bit_quant_type='nf4'."
        )
    options = {
        "double_quant": bool(fields.get("bnb_4bit_use_double_quant", False)),
        "compute_dtype": _dtype_name(fields.get("bnb_4bit_compute_dtype")) or "float32",
    }
    return Quantization("bnb-nf4", options, skip=skip)


def _patterns(names: Sequence[str] | None) -> list[str]:
    """Return the patterns of ``Quantization.skip`` for names that ``transformers`` takes for beginnings and ends."""
    if names is None:
        return [OUTPUT_LAYER]
    if isinstance(names, str):
        raise ConfigError(f"llm_int8_skip_modules must be a list of names; got the str {names!r}.")
    # The image tokenizer isn't a part of the model here, and never quantized.
    names = [name for name in names if "vqmodel" not in name]
    return [f"{name}*" if name.partition(".")[0] in ("model", OUTPUT_LAYER) else f"*{name}" for name in names]


def _dtype_name(dtype: Any) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")
