"""``int4``: four bits a weight, with one scale for each group of neighbours in a row.

The codes are −8 … 7 and zero is one of them, so a group needs no zero point. Which of its ends gets the code −8 is the
sign of its scale: the end that is further from zero, if that end makes use of it. So all sixteen codes are used, about
as well as with a zero point, since weights lie around zero.

Scales are bfloat16 for the reasons that ``int8`` has: the kernels read them as they are, the product with a code is
exact in float32, nothing is clipped, each weight is off by at most half a step, and quantizing again finds the same.

Shapes: O output features, I input features, G groups of a row, U codes of a group, J = I / 2 bytes of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedWeightError
from ..plain_weight import PlainWeight, by_rows, check_finite
from ..weight_quantizer import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .int4_codes import HIGHEST, LOWEST, join_codes, scale_codes, split_codes
from .int4_kernels import kernel_for

GROUP_SIZES = (32, 64, 128, 256)
TINY = torch.finfo(torch.bfloat16).tiny


def why_int4_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``int4`` with its default group size can't serve a layer, None where it can."""
    return Int4Quantizer().unsupported(spec)


@dataclass(frozen=True)
class Int4Quantizer(WeightQuantizer):
    """The quantizer. Smaller groups are more exact and take more memory: 4 + 16 / ``group_size`` bits a weight."""

    group_size: int = 128
    """Weights that share a scale: one of ``GROUP_SIZES``. Rows must be a multiple of it."""

    def __post_init__(self) -> None:
        if type(self.group_size) is not int or self.group_size not in GROUP_SIZES:  # 32.0 is equal to one of them
            raise ConfigError(f"group_size is {self.group_size!r}; it must be one of {GROUP_SIZES}.")

    def options(self) -> dict[str, Any]:
        """Return the group size."""
        return {"group_size": self.group_size}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Return why not, where a row isn't a multiple of the group size."""
        return self._why_not(spec.in_features)

    def _why_not(self, in_features: int) -> str | None:
        if in_features % self.group_size == 0:
            return None
        smaller = [size for size in GROUP_SIZES if in_features % size == 0]
        hint = f"group_size may be {' or '.join(map(str, smaller))}" if smaller else "int8 takes any width"
        return f"{in_features} input features aren't a multiple of the group size {self.group_size}; {hint}"

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return the layout: two codes a byte, and the scale of each group."""
        return {
            "weight_packed": TensorLayout(torch.uint8, (out_features, in_features // 2)),
            "weight_scale": TensorLayout(torch.bfloat16, (out_features, in_features // self.group_size)),
        }

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return codes and scales.

        Raises ``UnsupportedWeightError`` where a row isn't a multiple of the group size or a value isn't finite.
        """
        reason = self._why_not(weight_OI.shape[1])
        if reason is not None:
            raise UnsupportedWeightError(reason)
        return by_rows(self._quantize, weight_OI)

    def _quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        groups_OGU = torch.unflatten(weight_OI, 1, (-1, self.group_size))
        scale_OG = _scales(groups_OGU)
        codes_OGU = groups_OGU.div_(scale_OG.float()[..., None]).round_()
        return {"weight_packed": join_codes(codes_OGU.flatten(1).to(torch.int8)), "weight_scale": scale_OG}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return code times scale, exact in float32."""
        return scale_codes(split_codes(stored["weight_packed"]), stored["weight_scale"])

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return the codes in the order of torch's kernel, where there is one for this device, dtype and shape."""
        kernel = kernel_for(spec)
        return (
            PlainWeight(self.dequantize, dict(stored), splits=True)
            if kernel is None
            else kernel.of(stored, self.group_size)
        )


def _scales(groups_OGU: Tensor) -> Tensor:
    """Return ``scale_OG``, bfloat16; negative where the positive end of a group has the code −8."""
    below_OG, above_OG = (-groups_OGU.amin(dim=-1)).clamp_(min=0), groups_OGU.amax(dim=-1).clamp_(min=0)
    check_finite(below_OG + above_OG)
    further_OG, nearer_OG = torch.maximum(below_OG, above_OG), torch.minimum(below_OG, above_OG)
    # At least the smallest normal number, so that a group of zeros has a scale to divide by.
    step_OG = torch.maximum(further_OG / -LOWEST, nearer_OG / HIGHEST).to(torch.bfloat16).clamp_(min=TINY)
    # Only where the code −8 results: a group of codes −7 … 7 would change its sign whenever it is quantized again.
    negated_OG = (above_OG > below_OG) & ((above_OG / step_OG.float()).round() > HIGHEST)
    return torch.where(negated_OG, -step_OG, step_OG)
