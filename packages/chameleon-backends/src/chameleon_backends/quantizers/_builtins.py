"""The weight quantizers of this package, registered through the same hook as anybody's."""

from __future__ import annotations

from collections.abc import Iterable

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
    ]


def _int8() -> WeightQuantizer:
    from .int8 import Int8Quantizer

    return Int8Quantizer()


def _int4(*, group_size: int = 128) -> WeightQuantizer:
    from .int4 import Int4Quantizer

    return Int4Quantizer(group_size)


def _why_int4_unsupported(spec: LinearSpec | None) -> str | None:
    return None if spec is None else _int4().unsupported(spec)
