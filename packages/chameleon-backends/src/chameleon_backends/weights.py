"""The weight quantizer contract: what a quantizer makes of a weight, how a layer runs with it, how it is registered.

Shapes: O output features, I input features, N rows of input.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ConfigError
from .plugins import PluginSpec, always_supported, resolve

METHOD = "quant_method"
LEFT_OUT = "modules_to_not_convert"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """One linear layer that is to run with a quantized weight. Raises ``ConfigError`` for an impossible one."""

    in_features: int
    out_features: int
    dtype: torch.dtype
    """Of what goes into the layer and comes out of it."""
    device: torch.device

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.dtype.is_floating_point:
            raise ConfigError(f"dtype is {self.dtype}; it must be a floating type, that of the layer's input")


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """The type and the shape of a stored tensor. A size of None may be any."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def fits(self, found: TensorLayout) -> bool:
        """Whether a tensor of this type and shape is one of these."""
        same_rank = len(found.shape) == len(self.shape)
        sizes = zip(self.shape, found.shape, strict=False)
        return found.dtype == self.dtype and same_rank and all(size in (None, other) for size, other in sizes)


class PreparedWeight(Protocol):
    """A stored weight in the form that a kernel reads, on one device, for inputs of one dtype."""

    def multiply(self, input_NI: Tensor) -> Tensor:
        """``input_NI`` times the weight's transpose, ``out_NO``, in the input's dtype, without a gradient.

        The input may have any strides. One of another dtype than the weight was prepared for may take longer, and the
        product be no more exact than in that dtype.
        """

    def stored(self) -> dict[str, Tensor]:
        """What it was prepared from, bit for bit."""


class WeightQuantizer(abc.ABC):
    """The contract of weight quantizers: a weight [O, I] becomes a few tensors, offline, and a layer runs with them.

    A quantizer of your own has ``layout``, ``quantize`` and ``dequantize``; a layer then computes with the weight as
    ``dequantize`` gives it. One that has a kernel overrides ``prepare`` as well.

    Stored tensors have the names that they get in a checkpoint behind the layer's, ``q_proj.weight_scale``. They are
    portable: plain values and scales, the same on every device and processor, so that a checkpoint that was written on
    one runs on all. The order that a kernel wants is made by ``prepare`` and undone by ``PreparedWeight.stored``.

    Two quantizers with the same ``options()`` make the same tensors of the same weight. Quantizing what was dequantized
    changes nothing (up to rounding in float32), so that a model that is stored, dequantized and quantized again doesn't
    drift.
    """

    @abc.abstractmethod
    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """What ``quantize`` gives for a weight of this shape, by name."""

    @abc.abstractmethod
    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """The stored tensors of a floating weight, on its device. The weight isn't changed.

        Beside weight and result, memory is taken for some rows of the weight at a time (``by_rows``). Raises
        ``UnsupportedWeightError`` with the sentence of ``unsupported``, or where a value isn't finite.
        """

    @abc.abstractmethod
    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """The weight that the stored tensors stand for, float32 [O, I], on their device."""

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """The weight ready to be multiplied with; the stored tensors are on ``spec.device``."""
        from .quantizers.plain import PlainWeight

        return PlainWeight(self, dict(stored))

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Why this layer can't be quantized, in a sentence; None where it can."""
        return None

    def options(self) -> dict[str, Any]:
        """What its factory takes to make the same quantizer again, JSON-ready."""
        return {}


class WeightQuantizerSpec(PluginSpec, frozen=True, kw_only=True):
    """What the hook ``chameleon_weight_quantizers`` returns: a quantizer's name and how to make it.

    ``factory(**options)`` gives a ``WeightQuantizer``, and raises ``ConfigError`` for an impossible option; heavy
    modules are imported in there. ``unavailable()`` says why it can't run on this machine, ``unsupported(spec)`` why it
    can't serve a layer with its default options.

    A quantized model says in its ``config.json``, under ``quantization_config``, what it was quantized with: the
    quantizer's name as ``quant_method``, its options beside it, and the layers that were left out as
    ``modules_to_not_convert``. A quantizer whose tensors other libraries read may write their record and read it:
    ``to_record(options, left_out)``, and ``from_record(record)``, which gives the options or, for another's record,
    None.
    """

    factory: Callable[..., WeightQuantizer] | str
    unsupported: Callable[[LinearSpec], str | None] | str = always_supported
    to_record: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Any]] | str | None = None
    from_record: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | str | None = None

    def write_record(self, options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
        """The record of a model that was quantized with these options but for the layers ``left_out``."""
        if self.to_record is not None:
            return dict(resolve(self.to_record)(options, left_out))
        return {METHOD: self.name, **options, LEFT_OUT: list(left_out)}

    def read_record(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The options in a record, or None where it isn't this quantizer's."""
        if self.from_record is not None:
            options = resolve(self.from_record)(record)
            return None if options is None else dict(options)
        if record.get(METHOD) != self.name:
            return None
        return {name: value for name, value in record.items() if name not in (METHOD, LEFT_OUT)}
