# mypy: disable-error-code="import-not-found"
"""``bnb-nf4``: bitsandbytes' four bits a weight (QLoRA, arXiv 2305.14314), with the package's own tensors and record.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..plain_weight import check_finite
from ..weight_quantizer import QUANT_METHOD, LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .bnb import DTYPES, PACKAGE, SKIP_MODULES, refuse, why_dtype_unsupported, why_missing
from .bnb_repacked import RepackedNF4Weight, can_repack

# Values of a 4-bit block, and blocks whose scales are quantized together; transformers uses these two.
BLOCK, OUTER_BLOCK = 64, 256


def why_nf4_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``bnb-nf4`` can't serve a layer, None where it can."""
    return _why_odd(spec.in_features) or why_dtype_unsupported(spec.dtype) or why_missing()


def _why_odd(in_features: int) -> str | None:
    # Its kernels for CPUs don't take such rows; it then compiles a function for each shape, which takes long.
    if in_features % 2 == 0:
        return None
    return f"{PACKAGE} stores two values in a byte, and {in_features} input features are odd"


@dataclass(frozen=True)
class NF4Quantizer(WeightQuantizer):
    """Four bits a weight, spaced for normally distributed values, in blocks of 64."""

    double_quant: bool = True
    """Whether the blocks' scales are quantized, too: 4.13 instead of 4.5 bits a weight."""
    compute_dtype: str | torch.dtype | None = None
    """What products are computed in, a dtype or its name: float32, bfloat16 or float16. None: the input's dtype."""

    def __post_init__(self) -> None:
        name = None if self.compute_dtype is None else str(self.compute_dtype).removeprefix("torch.")
        if name is not None and getattr(torch, name, None) not in DTYPES:
            raise ConfigError(
                f"compute_dtype is {self.compute_dtype!r}; it must be float32, bfloat16, float16, or None."
            )
        object.__setattr__(self, "compute_dtype", name)

    def options(self) -> dict[str, Any]:
        """Return the two options."""
        return {"double_quant": self.double_quant, "compute_dtype": self.compute_dtype}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Return why not, where the width is odd, for instance."""
        return why_nf4_unsupported(spec)

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return what the package stores: codes, scales, the values that both stand for, and JSON as bytes."""
        values = in_features * out_features
        blocks = -(-values // BLOCK)
        layout = {
            "weight": TensorLayout(torch.uint8, (-(-values // 2), 1)),
            "weight.absmax": TensorLayout(torch.uint8 if self.double_quant else torch.float32, (blocks,)),
            "weight.quant_map": TensorLayout(torch.float32, (16,)),
            "weight.quant_state.bitsandbytes__nf4": TensorLayout(torch.uint8, (None,)),
        }
        if self.double_quant:
            layout["weight.nested_absmax"] = TensorLayout(torch.float32, (-(-blocks // OUTER_BLOCK),))
            layout["weight.nested_quant_map"] = TensorLayout(torch.float32, (256,))
        return layout

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return the package's tensors. Raises ``UnsupportedWeightError`` for an odd width and for infinite values."""
        from bitsandbytes import functional

        refuse(_why_odd(weight_OI.shape[1]) or why_dtype_unsupported(weight_OI.dtype))
        weight_OI = weight_OI.detach().contiguous()
        check_finite(torch.stack(torch.aminmax(weight_OI)))
        packed, state = functional.quantize_4bit(
            weight_OI, blocksize=BLOCK, compress_statistics=self.double_quant, quant_type="nf4"
        )
        return {"weight": packed, **{f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return value times scale."""
        return _dequantize(stored["weight"], _read_state(stored), torch.float32)

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return the tensors as they are, or repacked where the package has a kernel for that."""
        state = _read_state(stored)
        shape = tuple(state.shape)
        if shape != (spec.out_features, spec.in_features):
            raise ConfigError(f"the stored state is that of a weight {shape}, expected {spec}.")
        compute_dtype = spec.dtype if self.compute_dtype is None else getattr(torch, str(self.compute_dtype))
        if can_repack(spec.out_features, spec.in_features, compute_dtype, spec.device):
            return RepackedNF4Weight.repack(stored["weight"], state, _statistics(stored))
        return NF4Weight(dict(stored), state, compute_dtype)


def _dequantize(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight [O, I] that the codes stand for."""
    from bitsandbytes import functional

    # As one row: the package's kernel for CPUs with AVX-512 (0.50) begins a block with each row, while the quantizer
    # lets blocks of 64 continue into the next.
    row = copy.copy(state)
    row.shape, row.dtype = torch.Size((1, math.prod(state.shape))), dtype
    weight_OI: Tensor = functional.dequantize_4bit(packed, row).view(state.shape)
    return weight_OI


def _statistics(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in stored.items() if name != "weight"}


def _read_state(stored: Mapping[str, Tensor]) -> Any:
    """Return the package's ``QuantState``, checked: its JSON comes from a file, and the kernels trust its numbers."""
    from bitsandbytes import functional

    try:
        state = functional.QuantState.from_dict(_statistics(stored), device=stored["weight"].device)
        values = math.prod(state.shape)
        blocks = -(-values // BLOCK)
        outer = (state.state2.blocksize, len(state.state2.absmax)) if state.nested else (OUTER_BLOCK, None)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the stored state of {PACKAGE} can't be read: {type(error).__name__}: {error}.") from error
    found = (state.quant_type, state.blocksize, len(state.absmax), stored["weight"].numel(), *outer)
    expected = ("nf4", BLOCK, blocks, -(-values // 2), OUTER_BLOCK, -(-blocks // OUTER_BLOCK) if state.nested else None)
    # 64.0 is equal to 64 and nothing that a kernel takes.
    if found != expected or [type(each) for each in found] != [type(each) for each in expected]:
        raise ConfigError(f"the stored state of {PACKAGE} doesn't fit its tensors: {found}, expected {expected}.")
    largest = _largest_weight(state)
    if not largest <= torch.finfo(torch.float32).max:
        raise ConfigError(
            f"the stored state of {PACKAGE} gives weights up to {largest:.3g}, which float32 doesn't hold: "
            "its offset, its scales or its map is damaged. Get the file again."
        )
    return state


def _largest_weight(state: Any) -> float:
    """Return a bound of the weights that codes may stand for; numbers that are finite each may overflow together."""
    scale = float(state.absmax.max())
    if state.nested:
        outer = state.state2
        scale = abs(float(state.offset)) + float(outer.code.abs().max()) * float(outer.absmax.abs().max())
    return scale * float(state.code.abs().max())


@dataclass(frozen=True, slots=True)
class NF4Weight:
    """The package's product with codes in their stored order.

    The package's own layer isn't used. On CPUs with AVX512-BF16 its first product repacks the codes, whatever the
    dtype, and rounds the scales to bfloat16, so that saving would change a model; and it takes only multiples of 32
    outputs.
    """

    tensors: dict[str, Tensor]
    state: Any
    """The package's ``QuantState`` of them."""
    compute_dtype: torch.dtype

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        from bitsandbytes import matmul_4bit

        packed, values_MI = self.tensors["weight"], input_MI.to(self.compute_dtype)
        if input_MI.device.type == "cpu":
            out_MO = F.linear(values_MI, _dequantize(packed, self.state, self.compute_dtype))
        else:
            out_MO = matmul_4bit(values_MI, packed, self.state)
        return out_MO.to(input_MI.dtype)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from."""
        return self.tensors


def nf4_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """Return the record of ``transformers``' ``BitsAndBytesConfig(load_in_4bit=True)``."""
    record = {
        QUANT_METHOD: PACKAGE,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": options["double_quant"],
        SKIP_MODULES: list(left_out),
    }
    compute_dtype = options["compute_dtype"]
    return record if compute_dtype is None else {**record, "bnb_4bit_compute_dtype": compute_dtype}


def nf4_from_record(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options in such a record, None where it isn't one."""
    if record.get(QUANT_METHOD) != PACKAGE or not record.get("load_in_4bit"):
        return None
    if record.get("bnb_4bit_quant_type") != "nf4":
        return None
    return {
        "double_quant": record.get("bnb_4bit_use_double_quant", False),
        "compute_dtype": record.get("bnb_4bit_compute_dtype"),
    }
