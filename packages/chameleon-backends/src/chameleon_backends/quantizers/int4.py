"""``int4``: four bits a weight, with one scale for each group of neighbours in a row.

The codes are −8 … 7 and zero is one of them, so a group needs no zero point. Which of its ends gets the code −8 is the
sign of its scale: the end that is further from zero, where that end makes use of it. So all sixteen codes serve, about
as well as with a zero point, since weights lie around zero.

A scale is a bfloat16 number, for the reasons that ``int8`` has: the kernels read it as it is, its product with a code
is exact in float32, nothing is clipped, each weight is off by at most half a step, and quantizing again finds the same.

Shapes: O output features, I input features, g groups in a row, G group size, J = I / 2 bytes in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedWeightError
from ..weights import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .plain import PlainWeight, by_rows, check_finite

GROUP_SIZES = (32, 64, 128, 256)
LOWEST, HIGHEST = -8, 7
TINY = torch.finfo(torch.bfloat16).tiny


def why_int4_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``int4`` with its default group size can't serve a layer, None where it can."""
    return Int4Quantizer().unsupported(spec)


@dataclass(frozen=True)
class Int4Quantizer(WeightQuantizer):
    """The quantizer. Smaller groups are more exact and take more bytes: 4 + 16 / ``group_size`` bits a weight."""

    group_size: int = 128

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES:
            raise ConfigError(f"group_size is {self.group_size!r}; it must be one of {GROUP_SIZES}")

    def options(self) -> dict[str, Any]:
        """The group size."""
        return {"group_size": self.group_size}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """A row must be whole groups."""
        return self._why_not(spec.in_features)

    def _why_not(self, in_features: int) -> str | None:
        if in_features % self.group_size == 0:
            return None
        smaller = [size for size in GROUP_SIZES if in_features % size == 0]
        hint = f"group_size may be {' or '.join(map(str, smaller))}" if smaller else "int8 takes any width"
        return f"{in_features} input features aren't whole groups of {self.group_size}; {hint}"

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Two codes a byte, and the scale of each group."""
        return {
            "weight_packed": TensorLayout(torch.uint8, (out_features, in_features // 2)),
            "weight_scale": TensorLayout(torch.bfloat16, (out_features, in_features // self.group_size)),
        }

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Codes and scales. Raises ``UnsupportedWeightError`` where groups don't fill a row or a value isn't finite."""
        reason = self._why_not(weight_OI.shape[1])
        if reason is not None:
            raise UnsupportedWeightError(reason)
        return by_rows(self._quantize, weight_OI)

    def _quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        groups_OgG = torch.unflatten(weight_OI, 1, (-1, self.group_size))
        scale_Og = _scales(groups_OgG)
        codes_OgG = groups_OgG.div(scale_Og.float()[..., None]).round_()
        return {"weight_packed": join_codes(codes_OgG.flatten(1).to(torch.int8)), "weight_scale": scale_Og}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Code times scale, exact in float32."""
        return scale_codes(split_codes(stored["weight_packed"]), stored["weight_scale"])

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """The codes in the order of torch's kernel, where there is one for this device, dtype and shape."""
        from .int4_kernels import kernel_for

        kernel = kernel_for(spec)
        return PlainWeight(self, dict(stored)) if kernel is None else kernel.of(stored, self.group_size)


def _scales(groups_OgG: Tensor) -> Tensor:
    """``scale_Og``, bfloat16; negative where the positive end of a group has the code −8."""
    below_Og, above_Og = (-groups_OgG.amin(dim=-1)).clamp_(min=0), groups_OgG.amax(dim=-1).clamp_(min=0)
    check_finite(below_Og + above_Og)
    further_Og, nearer_Og = torch.maximum(below_Og, above_Og), torch.minimum(below_Og, above_Og)
    # At least the smallest normal number, so that a group of zeros has a scale to divide by.
    step_Og = torch.maximum(further_Og / -LOWEST, nearer_Og / HIGHEST).to(torch.bfloat16).clamp_(min=TINY)
    # Only where the code −8 comes of it: a group of codes −7 … 7 would turn round whenever it is quantized again.
    turned_Og = (above_Og > below_Og) & ((above_Og / step_Og.float()).round() > HIGHEST)
    return torch.where(turned_Og, -step_Og, step_Og)


def scale_codes(codes_OI: Tensor, scale_Og: Tensor) -> Tensor:
    """The weight [O, I] in float32."""
    groups_OgG = torch.unflatten(codes_OI.float(), 1, (scale_Og.shape[1], -1))
    return groups_OgG.mul_(scale_Og.float()[..., None]).flatten(1)


def join_codes(codes_OI: Tensor) -> Tensor:
    """``packed_OJ``, uint8: two codes in a byte, each plus 8, the first of the two neighbours in the high half.

    That is the order in which torch's packing for CUDA takes them.
    """
    raised_OI = (codes_OI - LOWEST).to(torch.uint8)
    return raised_OI[:, ::2] << 4 | raised_OI[:, 1::2]


def split_codes(packed_OJ: Tensor) -> Tensor:
    """The codes −8 … 7 of bytes, int8 [O, I]."""
    raised_OI = torch.stack((packed_OJ >> 4, packed_OJ & 15), dim=-1).flatten(1)
    return raised_OI.to(torch.int8) + LOWEST
