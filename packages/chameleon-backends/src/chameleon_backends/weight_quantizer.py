"""The weight quantizer contract: what a quantizer stores of a weight, how a layer runs with it, how it is registered.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ._fields import rejects_unknown_fields
from ._moved import moved_names
from .errors import ConfigError
from .plain_weight import PlainWeight
from .plugin_calls import described, wrong
from .plugins import PluginSpec, always_supported

QUANT_METHOD = "quant_method"
"""The key of a record that names the quantizer."""
MODULES_TO_NOT_CONVERT = "modules_to_not_convert"
"""The key of a record that lists the layers that weren't quantized."""


@rejects_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """A linear layer that is to run with a quantized weight. Raises ``ConfigError`` for impossible values."""

    in_features: int
    """Width of the input, ≥ 1."""
    out_features: int
    """Width of the output, ≥ 1."""
    dtype: torch.dtype
    """Floating type of the layer's input and output."""
    device: torch.device
    """Where the layer runs."""

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be an integer ≥ 1.")
        if not self.dtype.is_floating_point:
            raise ConfigError(f"dtype is {self.dtype}; it must be a floating type, that of the layer's input.")


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """The dtype and the shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]
    """A size of None matches any."""

    def fits(self, found: TensorLayout) -> bool:
        """Return whether a tensor with the layout ``found`` matches this one."""
        same_rank = len(found.shape) == len(self.shape)
        sizes = zip(self.shape, found.shape, strict=False)
        return found.dtype == self.dtype and same_rank and all(size in (None, other) for size, other in sizes)


class PreparedWeight(Protocol):
    """A stored weight in the form that a kernel reads, on one device, for inputs of one dtype."""

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Multiply an input with the weight's transpose: ``out_MO`` in the input's dtype, without a gradient.

        The input may have any strides. An input of another dtype than the weight was prepared for may take longer, and
        the product may have the precision of that dtype.
        """

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from, bit for bit."""


class WeightQuantizer(abc.ABC):
    """The contract of weight quantizers: a weight [O, I] becomes a few tensors, offline, and a layer runs with them.

    A quantizer implements ``layout``, ``quantize`` and ``dequantize``; a layer then multiplies with the weight that
    ``dequantize`` returns. A quantizer with a kernel overrides ``prepare`` as well.

    Stored tensors have the names that they get in a checkpoint after the layer's, ``q_proj.weight_scale``. They are
    portable: plain values and scales, the same on every device and CPU, so that a checkpoint written on one runs on
    all. The order that a kernel wants is made by ``prepare`` and undone by ``PreparedWeight.stored``.

    Two quantizers with the same ``options()`` make the same tensors of the same weight. Quantizing a dequantized weight
    changes nothing (up to rounding in float32), so that a model that is stored, dequantized and quantized again doesn't
    drift.
    """

    owner: str = "the weight quantizer"
    """What errors call it, with its distribution; ``get_weight_quantizer`` sets it."""

    @abc.abstractmethod
    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return the layout, by name, of the tensors that ``quantize`` makes of a weight of this shape."""

    @abc.abstractmethod
    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return the stored tensors of a floating weight, on its device. The weight isn't changed.

        Memory beyond weight and result is needed for some rows of the weight at a time only (``by_rows``). Raises
        ``UnsupportedWeightError`` with the sentence of ``unsupported``, or where a value isn't finite.
        """

    @abc.abstractmethod
    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [O, I], on their device."""

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return the weight in the form that the layer multiplies with. The stored tensors are on ``spec.device``."""
        return PlainWeight(self.dequantize, dict(stored))

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Return a sentence why this layer can't be quantized, None where it can."""
        return None

    def options(self) -> dict[str, Any]:
        """Return the options with which its factory makes the same quantizer again, JSON-ready."""
        return {}


class WeightQuantizerSpec(PluginSpec, frozen=True, kw_only=True):
    """What the hook ``chameleon_weight_quantizers`` returns: a quantizer's name and how to make it.

    ``factory(**options)`` returns a ``WeightQuantizer``, and raises ``ConfigError`` for an impossible option; heavy
    modules are imported in there. ``unavailable()`` says why it can't run on this machine, ``unsupported(spec)`` why it
    can't serve a layer with its default options.

    A quantized model records in its ``config.json``, under ``quantization_config``, what it was quantized with: the
    quantizer's name as ``quant_method``, its options beside it, and the layers that weren't quantized as
    ``modules_to_not_convert``. A quantizer whose tensors other libraries read may write and read their record instead.
    """

    factory: Callable[..., WeightQuantizer] | str
    """Makes the quantizer from its options."""
    unsupported: Callable[[LinearSpec], str | None] | str = always_supported
    """Returns a sentence why the quantizer can't serve a layer with its default options, None where it can."""
    to_record: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Any]] | str | None = None
    """``to_record(options, left_out)`` returns the record of a model whose layers ``left_out`` weren't quantized."""
    from_record: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | str | None = None
    """``from_record(record)`` returns the options, or None where the record isn't this quantizer's."""

    def write_record(self, options: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
        """Return the record of a model that was quantized with these options but for the layers ``left_out``."""
        if self.to_record is not None:
            record = self.call("to_record", options, left_out)
            if not isinstance(record, Mapping) or not isinstance(record.get(QUANT_METHOD), str):
                wrong(self.called, f"{described(record)} from to_record; expected a mapping with {QUANT_METHOD!r}.")
            return dict(record)
        return {QUANT_METHOD: self.name, **options, MODULES_TO_NOT_CONVERT: list(left_out)}

    def read_record(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the options in a record, or None where it isn't this quantizer's."""
        if self.from_record is not None:
            options = self.call("from_record", record)
            if options is not None and not (
                isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
            ):
                wrong(self.called, f"{described(options)} from from_record; expected a mapping of options, or None.")
            return None if options is None else dict(options)
        if record.get(QUANT_METHOD) != self.name:
            return None
        return {key: value for key, value in record.items() if key not in (QUANT_METHOD, MODULES_TO_NOT_CONVERT)}


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__, {"METHOD": f"{__name__}:QUANT_METHOD", "LEFT_OUT": f"{__name__}:MODULES_TO_NOT_CONVERT"}
    )
