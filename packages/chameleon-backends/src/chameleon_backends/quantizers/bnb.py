# mypy: disable-error-code="import-not-found"
"""``bnb-nf4`` and ``bnb-int8``: the quantizers of the bitsandbytes package (QLoRA, arXiv 2305.14314; LLM.int8(),
arXiv 2208.07339).

Their stored tensors have the package's own names and contents, and their record is the one that transformers writes:
folders go both ways.

Shapes: O output features, I input features, N rows of input.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, UnsupportedWeightError
from ..weights import METHOD, LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer
from .bnb_repacked import RepackedNF4Weight, can_repack
from .plain import check_finite

PACKAGE = "bitsandbytes"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEFT_OUT = "llm_int8_skip_modules"
# Values of a 4-bit block, and blocks whose scales are quantized together; transformers uses these two.
BLOCK, OUTER_BLOCK = 64, 256


def why_missing() -> str | None:
    """Why the package can't be used."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} isn't installed: pip install './packages/chameleon-backends[bitsandbytes]'"
    return None


def why_nf4_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``bnb-nf4`` can't serve a layer, None where it can."""
    return _why_odd(spec.in_features) or _why_not(spec.dtype) or why_missing()


def why_int8_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``bnb-int8`` can't serve a layer, None where it can."""
    return _why_not(spec.dtype) or why_missing() or (_why_inexact() if spec.device.type == "cpu" else None)


@functools.cache
def _why_inexact() -> str | None:
    """Why products of eight-bit integers are wrong on this CPU.

    Where a CPU multiplies them in sixteen bits, sums of two large products are cut off. torch avoids such kernels by
    what the CPU has, but not by what oneDNN was told to use.
    """
    import bitsandbytes  # noqa: F401

    codes_NI = torch.full((2, 64), 127, dtype=torch.int8)
    if bool((torch.ops.bitsandbytes.int8_linear_matmul(codes_NI, codes_NI) == 64 * 127**2).all()):
        return None
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    cause = f"ONEDNN_MAX_CPU_ISA is {limit!r}; unset it" if limit else "use bnb-nf4 or int8 in its place"
    return f"torch multiplies eight-bit integers wrongly on this CPU: {cause}"


def _why_not(dtype: torch.dtype) -> str | None:
    return None if dtype in DTYPES else f"{PACKAGE} computes in float32, bfloat16 and float16, not in {dtype}"


def _why_odd(in_features: int) -> str | None:
    # Its kernels for CPUs don't take such rows; it then compiles a function for each shape, which takes long.
    return f"{PACKAGE} has two values in a byte, and {in_features} input features are odd" if in_features % 2 else None


def _check(reason: str | None) -> None:
    if reason is not None:
        raise UnsupportedWeightError(reason)


@dataclass(frozen=True)
class NF4Quantizer(WeightQuantizer):
    """Four bits a weight, spaced for normally distributed values, in blocks of 64.

    ``double_quant`` quantizes the blocks' scales, too: 4.13 in place of 4.5 bits a weight. ``compute_dtype``, a dtype
    or its name, is what products are computed in; None is the input's.
    """

    double_quant: bool = True
    compute_dtype: str | torch.dtype | None = None

    def __post_init__(self) -> None:
        name = None if self.compute_dtype is None else str(self.compute_dtype).removeprefix("torch.")
        if name is not None and getattr(torch, name, None) not in DTYPES:
            raise ConfigError(f"compute_dtype is {self.compute_dtype!r}; it must be float32, bfloat16, float16 or None")
        object.__setattr__(self, "compute_dtype", name)

    def options(self) -> dict[str, Any]:
        """The two fields."""
        return {"double_quant": self.double_quant, "compute_dtype": self.compute_dtype}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """It serves even widths."""
        return why_nf4_unsupported(spec)

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """What the package stores: codes, scales, the values that both stand for, and a JSON text."""
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
        """The package's tensors. Raises ``UnsupportedWeightError`` for an odd width, or where a value isn't finite."""
        from bitsandbytes import functional

        _check(_why_odd(weight_OI.shape[1]) or _why_not(weight_OI.dtype))
        weight_OI = weight_OI.detach().contiguous()
        check_finite(torch.stack(torch.aminmax(weight_OI)))
        packed, state = functional.quantize_4bit(
            weight_OI, blocksize=BLOCK, compress_statistics=self.double_quant, quant_type="nf4"
        )
        return {"weight": packed, **{f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Value times scale."""
        return _dequantize(stored["weight"], _read_state(stored), torch.float32)

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """The tensors as they are, or repacked where the package has a kernel for that."""
        state = _read_state(stored)
        shape = tuple(state.shape)
        if shape != (spec.out_features, spec.in_features):
            raise ConfigError(f"the stored state is that of a weight {shape}, expected {spec}")
        compute_dtype = spec.dtype if self.compute_dtype is None else getattr(torch, str(self.compute_dtype))
        if can_repack(spec.out_features, spec.in_features, compute_dtype, spec.device):
            return RepackedNF4Weight.repack(stored["weight"], state, _statistics(stored))
        return NF4Weight(dict(stored), state, compute_dtype)


def _dequantize(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """The weight [O, I] that the codes stand for."""
    from bitsandbytes import functional

    # As one row: the package's kernel for CPUs with AVX-512 (0.50) begins a block with each row, where the quantizer
    # lets blocks of 64 go on into the next.
    row = copy.copy(state)
    row.shape, row.dtype = torch.Size((1, math.prod(state.shape))), dtype
    weight_OI: Tensor = functional.dequantize_4bit(packed, row).view(state.shape)
    return weight_OI


def _statistics(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in stored.items() if name != "weight"}


def _read_state(stored: Mapping[str, Tensor]) -> Any:
    """The package's ``QuantState``. Its JSON text comes from a file, and its kernels trust the numbers in it."""
    from bitsandbytes import functional

    try:
        state = functional.QuantState.from_dict(_statistics(stored), device=stored["weight"].device)
        values = math.prod(state.shape)
        blocks = -(-values // BLOCK)
        outer = (state.state2.blocksize, len(state.state2.absmax)) if state.nested else (OUTER_BLOCK, None)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the stored state of {PACKAGE} can't be read: {type(error).__name__}: {error}") from error
    found = (state.quant_type, state.blocksize, len(state.absmax), stored["weight"].numel(), *outer)
    expected = ("nf4", BLOCK, blocks, -(-values // 2), OUTER_BLOCK, -(-blocks // OUTER_BLOCK) if state.nested else None)
    if found != expected:
        raise ConfigError(f"the stored state of {PACKAGE} doesn't fit its tensors: {found}, expected {expected}")
    return state


@dataclass(frozen=True, slots=True)
class NF4Weight:
    """The package's product with codes in their stored order.

    The package's own layer isn't used: on CPUs with AVX512-BF16 its first product repacks the codes, whatever the
    dtype, and rounds the scales to bfloat16 for good, so that a model would change by being saved, and takes only
    multiples of 32 outputs.
    """

    tensors: dict[str, Tensor]
    state: Any
    """The package's ``QuantState`` of them."""
    compute_dtype: torch.dtype

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``out_NO`` in the input's dtype."""
        from bitsandbytes import matmul_4bit

        packed, values_NI = self.tensors["weight"], input_NI.to(self.compute_dtype)
        if input_NI.device.type == "cpu":
            out_NO = F.linear(values_NI, _dequantize(packed, self.state, self.compute_dtype))
        else:
            out_NO = matmul_4bit(values_NI, packed, self.state)
        return out_NO.to(input_NI.dtype)

    def stored(self) -> dict[str, Tensor]:
        """The tensors as they came."""
        return self.tensors


@dataclass(frozen=True)
class LLMInt8Quantizer(WeightQuantizer):
    """Eight bits a weight, one scale a row, and products of eight-bit inputs.

    Columns of the input with a value above ``threshold`` are multiplied in the input's dtype; 0 leaves none out.
    """

    threshold: float = 6.0

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold < math.inf:
            raise ConfigError(f"threshold is {self.threshold!r}; it must be a number from 0 on")

    def options(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """It serves every shape."""
        return why_int8_unsupported(spec)

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Codes, each row's largest absolute value, and the number of the format."""
        return {
            "weight": TensorLayout(torch.int8, (out_features, in_features)),
            "SCB": TensorLayout(torch.float32, (out_features,)),
            "weight_format": TensorLayout(torch.uint8, ()),
        }

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """The package's tensors. Raises ``UnsupportedWeightError`` where a value isn't finite in float16."""
        from bitsandbytes import functional

        _check(_why_not(weight_OI.dtype))
        weight_OI = weight_OI.detach().to(torch.float16).contiguous()
        check_finite(torch.stack(torch.aminmax(weight_OI)))
        codes_OI, largest_O, _ = functional.int8_vectorwise_quant(weight_OI)
        return {"weight": codes_OI, "SCB": largest_O, "weight_format": codes_OI.new_zeros((), dtype=torch.uint8)}

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Code times scale."""
        from bitsandbytes import functional

        weight_OI: Tensor = functional.int8_vectorwise_dequant(stored["weight"], stored["SCB"])
        return weight_OI

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """The tensors as they are, and the package's operators registered with torch."""
        import bitsandbytes  # noqa: F401

        return LLMInt8Weight(dict(stored), self.threshold)


@dataclass(frozen=True, slots=True)
class LLMInt8Weight:
    """The package's products. Its function for both would say at each call that it goes through float16."""

    tensors: dict[str, Tensor]
    threshold: float

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``out_NO`` in the input's dtype."""
        from bitsandbytes import functional

        codes_OI, largest_O = self.tensors["weight"], self.tensors["SCB"]
        if codes_OI.shape[1] == 1:
            # torch's product of eight-bit integers (2.13, with AVX-512) takes such a transpose for a contiguous matrix,
            # and reads past its end.
            codes_OI, input_NI = F.pad(codes_OI, (0, 1)), F.pad(input_NI, (0, 1))
        codes_NI, largest_N, columns = functional.int8_vectorwise_quant(
            input_NI.to(torch.float16).contiguous(), threshold=self.threshold
        )
        operators, scales = torch.ops.bitsandbytes, (largest_N, largest_O)
        if self.threshold == 0:
            return operators.int8_scaled_mm(codes_NI, codes_OI, *scales, dtype=input_NI.dtype)
        return operators.int8_mixed_scaled_mm(input_NI, codes_NI, codes_OI, *scales, columns, None)[0]

    def stored(self) -> dict[str, Tensor]:
        """The tensors as they came."""
        return self.tensors


def nf4_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """The record of transformers' ``BitsAndBytesConfig(load_in_4bit=True)``."""
    record = {
        METHOD: PACKAGE,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": options["double_quant"],
        LEFT_OUT: list(left_out),
    }
    compute_dtype = options["compute_dtype"]
    return record if compute_dtype is None else {**record, "bnb_4bit_compute_dtype": compute_dtype}


def nf4_from_record(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options in such a record."""
    if record.get(METHOD) != PACKAGE or not record.get("load_in_4bit") or record.get("bnb_4bit_quant_type") != "nf4":
        return None
    return {
        "double_quant": record.get("bnb_4bit_use_double_quant", False),
        "compute_dtype": record.get("bnb_4bit_compute_dtype"),
    }


def int8_to_record(options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """The record of transformers' ``BitsAndBytesConfig(load_in_8bit=True)``."""
    return {
        METHOD: PACKAGE,
        "load_in_8bit": True,
        "llm_int8_threshold": options["threshold"],
        LEFT_OUT: list(left_out),
    }


def int8_from_record(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options in such a record."""
    if record.get(METHOD) != PACKAGE or not record.get("load_in_8bit"):
        return None
    return {"threshold": record.get("llm_int8_threshold", 6.0)}
