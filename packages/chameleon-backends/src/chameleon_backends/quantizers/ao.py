# mypy: disable-error-code="import-not-found"
"""``torchao``: any weight config of torchao.quantization.

The package turns a weight into a tensor subclass that consists of plain tensors; these are stored. What else the
subclass keeps follows from the config and the shape, and is found by quantizing a weight on the meta device.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, UnsupportedWeightError
from ..plain_weight import check_finite
from ..weight_quantizer import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer

PACKAGE = "torchao"
PREFIX = "weight_"
SHAPE = PREFIX + "shape"


def why_missing() -> str | None:
    """Return the install line where the package isn't installed, None where it is."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} isn't installed: pip install './packages/chameleon-backends[torchao]'"
    return None


def why_torchao_unsupported(spec: LinearSpec) -> str | None:
    """Return why ``torchao`` with its default config can't serve a layer, None where it can."""
    return TorchAOQuantizer().unsupported(spec)


@dataclass(frozen=True)
class TorchAOQuantizer(WeightQuantizer):
    """The quantizer. Raises ``ConfigError`` for a config that the package doesn't know."""

    config: Any = "Int8WeightOnlyConfig"
    """A config of ``torchao.quantization``: an object, its class's name, or its dict form.

    The dict form is that of ``torchao.core.config``, which allows its own classes only.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _dict_form(self.config))

    def options(self) -> dict[str, Any]:
        """Return the config in its dict form."""
        return {"config": self.config}

    def unsupported(self, spec: LinearSpec) -> str | None:
        """Return what the package says of a weight of this shape, None where it takes it."""
        try:
            self._quantized(torch.empty(spec.out_features, spec.in_features, dtype=spec.dtype, device="meta"))
        except UnsupportedWeightError as error:
            return str(error)
        return None

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        """Return the layout of the plain tensors that the package's consists of, and of the shape."""
        parts = _parts(self._quantized(torch.empty(out_features, in_features, device="meta")))
        return {name: TensorLayout(part.dtype, tuple(part.shape)) for name, part in parts.items()}

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """Return the package's tensors. Raises ``UnsupportedWeightError`` as the package does."""
        weight_OI = weight_OI.detach().float()
        check_finite(torch.stack(torch.aminmax(weight_OI)))
        parts = _parts(self._quantized(weight_OI))
        if any(part.is_floating_point() and not part.float().isfinite().all() for part in parts.values()):
            raise UnsupportedWeightError(
                f"{PACKAGE}'s {self.config['_type']} makes NaN of the weight; does it have a row of zeros?"
            )
        return parts

    def dequantize(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the weight as the package dequantizes it."""
        return self._joined(stored, torch.float32).dequantize()

    def prepare(self, stored: Mapping[str, Tensor], spec: LinearSpec) -> PreparedWeight:
        """Return the package's tensor for inputs of the layer's dtype."""
        if stored[SHAPE].tolist() != [spec.out_features, spec.in_features]:
            raise ConfigError(f"the stored tensors are those of a weight {stored[SHAPE].tolist()}, expected {spec}.")
        return TorchAOWeight(self._joined(stored, spec.dtype), dict(stored))

    def _quantized(self, weight_OI: Tensor) -> Any:
        """Return the package's tensor of a weight."""
        from torchao.core.config import config_from_dict
        from torchao.quantization import quantize_

        layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight_OI, requires_grad=False)
        try:
            quantize_(layer, config_from_dict(self.config))
        # Which of them depends on the config: a missing package, a shape, a device, a missing calibration.
        except (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedWeightError(f"{PACKAGE}'s {self.config['_type']} refuses the weight: {error}") from error
        if not hasattr(layer.weight, "__tensor_flatten__"):
            raise UnsupportedWeightError(f"{PACKAGE}'s {self.config['_type']} leaves the weight as it is")
        return layer.weight.detach()

    def _joined(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
        """Return the package's tensor of stored tensors, for inputs of a dtype."""
        shape = torch.Size(stored[SHAPE].tolist())
        found = {name: TensorLayout(tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()}
        if len(shape) != 2 or found != self.layout(shape[1], shape[0]):
            raise ConfigError(f"the stored tensors {found} aren't those of a weight {list(shape)}.")
        pattern = self._quantized(torch.empty(shape, dtype=dtype, device="meta"))
        names, kept = pattern.__tensor_flatten__()
        parts = {name: stored[PREFIX + name] for name in names}
        return type(pattern).__tensor_unflatten__(parts, kept, shape, pattern.stride())


@dataclass(frozen=True, slots=True)
class TorchAOWeight:
    """The package's tensor."""

    weight: Any
    tensors: dict[str, Tensor]

    def multiply(self, input_MI: Tensor) -> Tensor:
        """Return ``out_MO`` in the input's dtype."""
        return F.linear(input_MI, self.weight)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that it was prepared from."""
        return self.tensors


def _parts(weight: Any) -> dict[str, Tensor]:
    names, _ = weight.__tensor_flatten__()
    parts = {PREFIX + name: getattr(weight, name) for name in names}
    nested = [name for name, part in parts.items() if type(part) is not Tensor]
    if nested:
        raise UnsupportedWeightError(f"{PACKAGE}'s tensor keeps {', '.join(nested)} in another tensor subclass")
    return {**parts, SHAPE: torch.tensor(weight.shape, device=weight.device)}


def _dict_form(config: Any) -> dict[str, Any]:
    from torchao import quantization
    from torchao.core.config import AOBaseConfig, config_from_dict, config_to_dict

    try:
        if isinstance(config, str):
            config = getattr(quantization, config)()
        elif not isinstance(config, AOBaseConfig):
            config = config_from_dict(config)
        data: dict[str, Any] = config_to_dict(config)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{config!r} is not a config of {PACKAGE}.quantization: {error}.") from error
    return data
