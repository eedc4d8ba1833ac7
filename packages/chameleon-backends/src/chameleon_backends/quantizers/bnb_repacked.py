# mypy: disable-error-code="import-not-found"
"""bitsandbytes' product of bfloat16 inputs with nf4 weights on CPUs with AVX512-BF16.

It is about 20 times as fast as dequantizing for a single row.

The kernel reads codes in its own order and scales in bfloat16. The package's layer replaces its weight with these, and
quantizes the rounded scales again when it is saved. Here only the codes are repacked, which loses nothing, and the
stored scales are kept beside the rounded ones.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What the kernel works on at a time: rows of the weight, and values with one scale, which don't continue into the next
# row.
OUTPUTS, INPUTS = 32, 64


def can_repack(out_features: int, in_features: int, compute_dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the package has the kernel and it takes the layer."""
    from bitsandbytes import functional

    fits = out_features % OUTPUTS == 0 and in_features % INPUTS == 0
    if not (fits and device.type == "cpu" and compute_dtype == torch.bfloat16):
        return False
    # Neither these nor the order are public; without them weights are dequantized.
    names = ("_convert_weight_packed_for_cpu", "_convert_weight_packed_for_cpu_inverse")
    return bool(functional.has_avx512bf16()) and all(hasattr(functional, name) for name in names)


@dataclass(frozen=True, slots=True)
class RepackedNF4Weight:
    """The codes in the kernel's order, and the other stored tensors."""

    codes: Tensor
    state: Any
    """The package's ``QuantState`` for the kernel, its scales in bfloat16."""
    statistics: Mapping[str, Tensor]
    """The stored tensors but for the codes."""

    @classmethod
    def repack(cls, codes: Tensor, state: Any, statistics: Mapping[str, Tensor]) -> RepackedNF4Weight:
        """Repack stored codes; ``state`` is the package's ``QuantState`` of them."""
        from bitsandbytes import functional

        # The package changes the state that it is given.
        repacked, repacked_state = functional._convert_weight_packed_for_cpu(codes, copy.copy(state))
        return cls(repacked, repacked_state, dict(statistics))

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        from bitsandbytes import functional

        if not len(input_MI):
            return input_MI.new_empty(0, self.state.shape[0])
        out_MO: Tensor = functional.gemv_4bit(input_MI.bfloat16().contiguous(), self.codes, state=self.state)
        return out_MO.to(input_MI.dtype)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from, bit for bit."""
        from bitsandbytes import functional

        codes, _ = functional._convert_weight_packed_for_cpu_inverse(self.codes, copy.copy(self.state))
        return {"weight": codes, **self.statistics}
