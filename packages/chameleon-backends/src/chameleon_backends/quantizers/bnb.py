"""What ``bnb-nf4`` and ``bnb-int8``, the quantizers of the bitsandbytes package, share.

Their stored tensors have the package's own names and contents, and their records are those that ``transformers``
writes: folders go both ways.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING

import torch

from .._moved import moved_names
from ..errors import UnsupportedWeightError

if TYPE_CHECKING:
    from ..weight_quantizer import LinearSpec

PACKAGE = "bitsandbytes"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SKIP_MODULES = "llm_int8_skip_modules"
"""The key of a record of ``transformers`` that lists the layers that weren't quantized."""


def why_missing() -> str | None:
    """Return the install line where the package isn't installed, None where it is."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} isn't installed: pip install './packages/chameleon-backends[bitsandbytes]'"
    return None


def why_dtype_unsupported(dtype: torch.dtype) -> str | None:
    """Return why the package can't compute in a dtype, None where it can."""
    return None if dtype in DTYPES else f"{PACKAGE} computes in float32, bfloat16 and float16, not in {dtype}"


def why_unsupported(spec: LinearSpec | None) -> str | None:
    """Deprecated: use ``why_missing`` and ``why_dtype_unsupported``."""
    warnings.warn(
        f"{__name__}.why_unsupported is deprecated; use why_missing and why_dtype_unsupported.",
        DeprecationWarning,
        stacklevel=2,
    )
    return (spec and why_dtype_unsupported(spec.dtype)) or why_missing()


def refuse(reason: str | None) -> None:
    """Raise ``UnsupportedWeightError`` where there is a reason."""
    if reason is not None:
        raise UnsupportedWeightError(reason)


if not TYPE_CHECKING:
    _MOVED = {
        "bnb_nf4": ("NF4Quantizer", "NF4Weight", "nf4_from_record", "nf4_to_record", "why_nf4_unsupported"),
        "bnb_int8": ("LLMInt8Quantizer", "LLMInt8Weight", "int8_from_record", "int8_to_record", "why_int8_unsupported"),
    }
    __getattr__ = moved_names(
        __name__,
        {name: f"{__package__}.{module}:{name}" for module, names in _MOVED.items() for name in names}
        | {"LEFT_OUT": f"{__name__}:SKIP_MODULES"},
    )
