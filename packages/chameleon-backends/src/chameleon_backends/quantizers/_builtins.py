"""The weight quantizers of this package, registered through the same hook as anybody's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..hookspecs import HOOK_API_VERSION, hookimpl
from ..weights import LinearSpec, WeightQuantizer, WeightQuantizerSpec


@hookimpl
def chameleon_weight_quantizers() -> Iterable[WeightQuantizerSpec]:
    """The built-ins. Each is imported when it is made."""
    return [
        WeightQuantizerSpec(
            name="int8",
            factory=_int8,
            api_version=HOOK_API_VERSION,
            summary="8 bits a weight, one scale a row; for every shape, dtype and device",
        ),
        WeightQuantizerSpec(
            name="int4",
            factory=_int4,
            api_version=HOOK_API_VERSION,
            summary="4 bits a weight, one scale for a group of 32 to 256 (group_size, 128)",
            unsupported=_why_int4_unsupported,
        ),
        WeightQuantizerSpec(
            name="bnb-nf4",
            factory=_nf4,
            api_version=HOOK_API_VERSION,
            summary="bitsandbytes' 4 bits, with double quantization (double_quant, compute_dtype)",
            unsupported=_why_nf4_unsupported,
            to_record=_nf4_to_record,
            from_record=_nf4_from_record,
        ),
        WeightQuantizerSpec(
            name="bnb-int8",
            factory=_llm_int8,
            api_version=HOOK_API_VERSION,
            summary="bitsandbytes' LLM.int8(): weights and inputs in 8 bits (threshold)",
            unsupported=_why_llm_int8_unsupported,
            to_record=_llm_int8_to_record,
            from_record=_llm_int8_from_record,
        ),
        WeightQuantizerSpec(
            name="torchao",
            factory=_torchao,
            api_version=HOOK_API_VERSION,
            summary="what torchao.quantization has (config, Int8WeightOnlyConfig)",
            unsupported=_why_torchao_unsupported,
        ),
    ]


def _int8() -> WeightQuantizer:
    from .int8 import Int8Quantizer

    return Int8Quantizer()


def _int4(*, group_size: int = 128) -> WeightQuantizer:
    from .int4 import Int4Quantizer

    return Int4Quantizer(group_size)


def _why_int4_unsupported(spec: LinearSpec | None) -> str | None:
    return None if spec is None else _int4().unsupported(spec)


def _nf4(*, double_quant: bool = True, compute_dtype: str | torch.dtype | None = None) -> WeightQuantizer:
    from .bnb import NF4Quantizer

    return NF4Quantizer(double_quant, compute_dtype)


def _llm_int8(*, threshold: float = 6.0) -> WeightQuantizer:
    from .bnb import LLMInt8Quantizer

    return LLMInt8Quantizer(threshold)


def _why_nf4_unsupported(spec: LinearSpec | None) -> str | None:
    from .bnb import why_nf4_unsupported

    return why_nf4_unsupported(spec)


def _why_llm_int8_unsupported(spec: LinearSpec | None) -> str | None:
    from .bnb import why_int8_unsupported

    return why_int8_unsupported(spec)


def _nf4_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> Mapping[str, Any]:
    from .bnb import nf4_to_record

    return nf4_to_record(options, left_out)


def _nf4_from_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    from .bnb import nf4_from_record

    return nf4_from_record(record)


def _llm_int8_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> Mapping[str, Any]:
    from .bnb import int8_to_record

    return int8_to_record(options, left_out)


def _llm_int8_from_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    from .bnb import int8_from_record

    return int8_from_record(record)


def _torchao(*, config: Any = "Int8WeightOnlyConfig") -> WeightQuantizer:
    from .ao import TorchAOQuantizer

    return TorchAOQuantizer(config)


def _why_torchao_unsupported(spec: LinearSpec | None) -> str | None:
    from .ao import TorchAOQuantizer, why_missing

    reason = why_missing()
    return TorchAOQuantizer().unsupported(spec) if spec is not None and reason is None else reason
