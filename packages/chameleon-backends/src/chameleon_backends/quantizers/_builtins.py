"""The weight quantizers of this package, registered through the same hook as any plugin."""

from __future__ import annotations

from collections.abc import Iterable

from ..hookspecs import HOOK_API_VERSION, hookimpl
from ..weight_quantizer import WeightQuantizerSpec


@hookimpl
def chameleon_weight_quantizers() -> Iterable[WeightQuantizerSpec]:
    """Return the built-ins. Each is imported when it is made."""
    return [
        WeightQuantizerSpec(
            name="int8",
            factory="chameleon_backends.quantizers.int8:Int8Quantizer",
            api_version=HOOK_API_VERSION,
            summary="8 bits a weight, one scale a row; for every shape, dtype and device",
        ),
        WeightQuantizerSpec(
            name="int4",
            factory="chameleon_backends.quantizers.int4:Int4Quantizer",
            api_version=HOOK_API_VERSION,
            summary="4 bits a weight, one scale for a group of 32 to 256 (group_size, 128)",
            unsupported="chameleon_backends.quantizers.int4:why_int4_unsupported",
        ),
        WeightQuantizerSpec(
            name="bnb-nf4",
            factory="chameleon_backends.quantizers.bnb_nf4:NF4Quantizer",
            api_version=HOOK_API_VERSION,
            summary="bitsandbytes' 4 bits, with double quantization (double_quant, compute_dtype)",
            unavailable="chameleon_backends.quantizers.bnb:why_missing",
            unsupported="chameleon_backends.quantizers.bnb_nf4:why_nf4_unsupported",
            to_record="chameleon_backends.quantizers.bnb_nf4:nf4_to_record",
            from_record="chameleon_backends.quantizers.bnb_nf4:nf4_from_record",
        ),
        WeightQuantizerSpec(
            name="bnb-int8",
            factory="chameleon_backends.quantizers.bnb_int8:LLMInt8Quantizer",
            api_version=HOOK_API_VERSION,
            summary="bitsandbytes' LLM.int8(): weights and inputs in 8 bits (threshold)",
            unavailable="chameleon_backends.quantizers.bnb:why_missing",
            unsupported="chameleon_backends.quantizers.bnb_int8:why_int8_unsupported",
            to_record="chameleon_backends.quantizers.bnb_int8:int8_to_record",
            from_record="chameleon_backends.quantizers.bnb_int8:int8_from_record",
        ),
        WeightQuantizerSpec(
            name="torchao",
            factory="chameleon_backends.quantizers.ao:TorchAOQuantizer",
            api_version=HOOK_API_VERSION,
            summary="what torchao.quantization has (config, Int8WeightOnlyConfig)",
            unavailable="chameleon_backends.quantizers.ao:why_missing",
            unsupported="chameleon_backends.quantizers.ao:why_torchao_unsupported",
        ),
    ]
