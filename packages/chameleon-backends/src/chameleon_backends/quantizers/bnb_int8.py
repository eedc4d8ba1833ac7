# mypy: disable-error-code="import-not-found"
"""``bnb-int8``: bitsandbytes' LLM.int8() (arXiv 2208.07339), with the package's own tensors and record.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..plain_weight import check_finite
from ..weight_quantizer import QUANT_METHOD, LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .bnb import PACKAGE, SKIP_MODULES, refuse, why_dtype_unsupported, why_missing


def why_int8_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``bnb-int8`` can't serve a layer, None where it can."""
    inexact = _why_inexact if spec.device.type == "cpu" else lambda: None
    return why_dtype_unsupported(spec.dtype) or why_missing() or inexact()


@functools.cache
def _why_inexact() -> str | None:
    """Return why products of eight-bit integers are wrong on this CPU, None where they are right.

    Where a CPU multiplies them in sixteen bits, sums of two large products overflow. torch avoids such kernels by what
    the CPU supports, but not by what oneDNN was told to use.
    """
    import bitsandbytes  # noqa: F401

    codes_MI = torch.full((2, 64), 127, dtype=torch.int8)
    if bool((torch.ops.bitsandbytes.int8_linear_matmul(codes_MI, codes_MI) == 64 * 127**2).all()):
        return None
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    cause = f"ONEDNN_MAX_CPU_ISA is {limit!r}; unset it" if limit else "use bnb-nf4 or int8 instead"
    return f"torch multiplies eight-bit integers wrongly on this CPU: {cause}"


@dataclass(frozen=True)
class LLMInt8Quantizer(WeightQuantizer):
    """Eight bits a weight, one scale a row, and products of eight-bit inputs."""

    threshold: float = 6.0
    """Columns of the input with a value above it are multiplied in the input's dtype. At 0 none are. A number ≥ 0."""

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold < math.inf:
            raise ConfigError(f"threshold is {self.threshold!r}; it must be a number ≥ 0.")

    def options(self) -> dict[str, Any]:
        """Return the threshold."""
        return {"threshold": self.threshold}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Return why not; every shape is served."""
        return why_int8_unsupported(spec)

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return the layout: codes, each row's largest absolute value, and the number of the format."""
        return {
            "weight": TensorLayout(torch.int8, (out_features, in_features)),
            "SCB": TensorLayout(torch.float32, (out_features,)),
            "weight_format": TensorLayout(torch.uint8, ()),
        }

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return the package's tensors. Raises ``UnsupportedWeightError`` where a value isn't finite in float16."""
        from bitsandbytes import functional

        refuse(why_dtype_unsupported(weight_OI.dtype))
        weight_OI = weight_OI.detach().to(torch.float16).contiguous()
        check_finite(torch.stack(torch.aminmax(weight_OI)))
        codes_OI, largest_O, _ = functional.int8_vectorwise_quant(weight_OI)
        return {"weight": codes_OI, "SCB": largest_O, "weight_format": codes_OI.new_zeros((), dtype=torch.uint8)}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return code times scale."""
        from bitsandbytes import functional

        weight_OI: Tensor = functional.int8_vectorwise_dequant(stored["weight"], stored["SCB"])
        return weight_OI

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return the tensors as they are; the package's operators are registered with torch."""
        import bitsandbytes  # noqa: F401

        return LLMInt8Weight(dict(stored), self.threshold)


@dataclass(frozen=True, slots=True)
class LLMInt8Weight:
    """The package's products. Its own function would warn at each call that it computes in float16."""

    tensors: dict[str, Tensor]
    threshold: float

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        from bitsandbytes import functional

        codes_OI, largest_O = self.tensors["weight"], self.tensors["SCB"]
        if codes_OI.shape[1] == 1:
            # torch's product of eight-bit integers (2.13, with AVX-512) takes such a transpose for a contiguous matrix,
            # and reads past its end.
            codes_OI, input_MI = F.pad(codes_OI, (0, 1)), F.pad(input_MI, (0, 1))
        codes_MI, largest_M, columns = functional.int8_vectorwise_quant(
            input_MI.to(torch.float16).contiguous(), threshold=self.threshold
        )
        operators, scales = torch.ops.bitsandbytes, (largest_M, largest_O)
        if self.threshold == 0:
            return operators.int8_scaled_mm(codes_MI, codes_OI, *scales, dtype=input_MI.dtype)
        return operators.int8_mixed_scaled_mm(input_MI, codes_MI, codes_OI, *scales, columns, None)[0]

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from."""
        return self.tensors


def int8_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """Return the record of ``transformers``' ``BitsAndBytesConfig(load_in_8bit=True)``."""
    return {
        QUANT_METHOD: PACKAGE,
        "load_in_8bit": True,
        "llm_int8_threshold": options["threshold"],
        SKIP_MODULES: list(left_out),
    }


def int8_from_record(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options in such a record, None where it isn't one."""
    if record.get(QUANT_METHOD) != PACKAGE or not record.get("load_in_8bit"):
        return None
    return {"threshold": record.get("llm_int8_threshold", 6.0)}
