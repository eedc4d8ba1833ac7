"""A linear layer with a quantized weight.

Shapes: O output features, I input features, M rows of a matrix input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import ConfigError, UnsupportedWeightError
from .plain_weight import multiply_dense
from .plugin_calls import described, plugin_call, wrong
from .weight_quantizer import LinearSpec, PreparedWeight, TensorLayout, WeightQuantizer


class QuantizedLinear(nn.Module):
    """``y = x Wᵀ + b`` with a quantized weight, in place of ``nn.Linear``.

    It is made without a weight, for inputs of ``dtype``; ``load`` sets the weight. The weight doesn't train. Gradients
    flow to the input and to the bias, through the dequantized weight, so that adapters train on top of it.

    ``state_dict`` has the portable tensors under their stored names. Moving the layer to another device or dtype
    prepares the weight anew; its codes and scales stay the same bit for bit, whatever dtype the model gets.
    """

    def __init__(
        self,
        quantizer: WeightQuantizer,
        in_features: int,
        out_features: int,
        *,
        dtype: torch.dtype,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.in_features = in_features
        self.out_features = out_features
        self.dtype = dtype
        self.device = torch.device("cpu")
        self.register_parameter("bias", bias)
        self._weight: PreparedWeight | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, quantizer: WeightQuantizer) -> Self:
        """Return a layer quantized; it shares the bias. Raises ``UnsupportedWeightError``."""
        weight_OI = linear.weight.detach()
        layer = cls(quantizer, linear.in_features, linear.out_features, dtype=weight_OI.dtype, bias=linear.bias)
        layer.spec(weight_OI.device)
        layer.quantize(weight_OI)
        return layer

    def quantize(self, weight_OI: Tensor) -> None:
        """Set the weight from a float one. Raises ``UnsupportedWeightError``, or ``BrokenPluginError`` where the
        quantizer fails or makes other tensors than its layout says.
        """
        with plugin_call(self.quantizer.owner, "quantizing a weight"):
            stored = self.quantizer.quantize(weight_OI)
        self._check_quantized(stored)
        self.load(stored)

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Set the weight from stored tensors, on the device where they are.

        Raises ``ConfigError`` where they don't match the layout, ``UnsupportedWeightError`` where the quantizer can't
        serve the layer.
        """
        layout = self.layout()
        found = {name: TensorLayout(tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()}
        if found.keys() != layout.keys() or not all(layout[name].fits(found[name]) for name in layout):
            raise ConfigError(f"the stored tensors are {found}; the quantizer expects {layout}.")
        device = next(iter(stored.values())).device
        spec = self.spec(device)
        with plugin_call(self.quantizer.owner, "preparing a weight"):
            self._weight = self.quantizer.prepare(stored, spec)
        self.device = device

    def spec(self, device: torch.device) -> LinearSpec:
        """Return the layer's spec on a device. Raises ``UnsupportedWeightError`` where the quantizer can't serve it."""
        spec = LinearSpec(in_features=self.in_features, out_features=self.out_features, dtype=self.dtype, device=device)
        with plugin_call(self.quantizer.owner, "calling its unsupported"):
            reason = self.quantizer.unsupported(spec)
        if reason is not None:
            raise UnsupportedWeightError(reason)
        return spec

    def layout(self) -> dict[str, TensorLayout]:
        """Return the stored tensors' dtypes and shapes, by name."""
        with plugin_call(self.quantizer.owner, "calling its layout"):
            return self.quantizer.layout(self.in_features, self.out_features)

    def _check_quantized(self, stored: Any) -> None:
        """Raise ``BrokenPluginError`` where ``quantize`` returned other tensors than ``layout`` says."""
        if not isinstance(stored, Mapping) or not all(isinstance(each, Tensor) for each in stored.values()):
            wrong(self.quantizer.owner, f"{described(stored)} from quantize; expected tensors by name.")
        layout = self.layout()
        found = {name: TensorLayout(tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()}
        if found.keys() != layout.keys() or not all(layout[name].fits(found[name]) for name in layout):
            wrong(self.quantizer.owner, f"{found} from quantize, and its layout is {layout}.")

    def stored(self) -> dict[str, Tensor]:
        """Return the portable tensors, as a checkpoint holds them."""
        return self.prepared.stored()

    def dequantize(self) -> Tensor:
        """Return the weight that the layer multiplies with, float32 [O, I]."""
        return self.quantizer.dequantize(self.stored())

    @property
    def weight(self) -> Tensor:
        """The dequantized weight [O, I] in the layer's dtype, for code that reads it. A copy: changes are lost."""
        return self.dequantize().to(self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - called so in nn.Linear
        """Map ``[..., I]`` to ``[..., O]``, in the input's dtype. Raises ``ConfigError`` for another width."""
        if input.shape[-1] != self.in_features:
            raise ConfigError(f"the input has shape {list(input.shape)}; its last size must be {self.in_features}.")
        input_MI = input.reshape(-1, self.in_features)
        if torch.is_grad_enabled() and input.requires_grad:
            out_MO = _Product.apply(input_MI, self.prepared, self.quantizer)  # type: ignore[no-untyped-call]
        else:
            out_MO = self.prepared.multiply(input_MI)
        out = out_MO.view(*input.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    @property
    def prepared(self) -> PreparedWeight:
        """The weight in the kernel's form. Raises ``RuntimeError`` before ``load``."""
        if self._weight is None:
            raise RuntimeError("the layer has no weight yet; call load() first.")
        return self._weight

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, {self.quantizer}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Its new device, and its inputs' new dtype; the scales keep their own dtype.
        moved = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if (moved.device, moved.dtype) != (self.device, self.dtype):
            self.device, self.dtype = moved.device, moved.dtype
            if self._weight is not None:
                self.load({name: tensor.to(self.device) for name, tensor in self.stored().items()})
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: tensor for name, tensor in self.stored().items()})
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = [name for name in self.layout() if prefix + name in state_dict]
        stored = {name: state_dict.pop(prefix + name).to(self.device) for name in names}
        missing = [prefix + name for name in self.layout() if name not in stored]
        missing_keys += missing
        if not missing:
            try:
                self.load(stored)
            except ValueError as error:
                error_msgs.append(f"{prefix.removesuffix('.')}: {error}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class _Product(torch.autograd.Function):
    """The product, with a gradient for the input."""

    @staticmethod
    def forward(ctx: Any, input_MI: Tensor, weight: PreparedWeight, quantizer: WeightQuantizer) -> Tensor:
        ctx.weight, ctx.quantizer = weight, quantizer
        return weight.multiply(input_MI.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor, None, None]:
        weight_OI = ctx.quantizer.dequantize(ctx.weight.stored())
        return multiply_dense(grad_MO, weight_OI.T), None, None
