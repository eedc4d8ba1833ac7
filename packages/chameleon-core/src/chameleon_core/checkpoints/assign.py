"""Give a model without memory the weights of a checkpoint, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, TensorLayout

from ..errors import WeightsError
from ..formats import IMAGE_PREFIX, Checkpoint, StoredTensor
from .quantization_plan import QuantizationPlan, naming

# Old releases of the reference stored this buffer, which follows from the config.
_DERIVED_SUFFIX = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class StoredWeights:
    """The model's own tensors in a checkpoint, and what is to become of them."""

    checkpoint: Checkpoint
    dtype: torch.dtype | None
    """What floats become; None leaves each as it is."""
    device: torch.device
    source: str
    """The folder, for errors."""

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Those that the model has, by name."""
        return {
            name: tensor
            for name, tensor in self.checkpoint.tensors.items()
            if not name.startswith(IMAGE_PREFIX) and not name.endswith(_DERIVED_SUFFIX)
        }

    @cached_property
    def float_names(self) -> list[str]:
        """Those that are weights as they are. Floats of a byte may be the codes of a quantizer."""
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1
        ]

    @property
    def activations(self) -> torch.dtype:
        """The type of what goes through the layers."""
        stored = (self.tensors[name].dtype for name in self.float_names)
        return self.dtype or next(stored, torch.float32)

    def load(self, name: str) -> Tensor:
        """A tensor as it is stored, on the device."""
        return self.tensors[name].load().to(self.device)


def assign(model: nn.Module, weights: StoredWeights, plan: QuantizationPlan | None = None) -> None:
    """Replace the model's meta tensors by those of a checkpoint, and linear layers by quantized ones as ``plan`` says.

    Raises ``WeightsError`` before any work where the checkpoint's tensors aren't those of the model.
    """
    quantized = {f"{name}.weight" for name in plan.names} if plan else set()
    slots = _slots(model)
    plain = [slot for slot in slots if quantized.isdisjoint(slot.names)]
    if plan is not None and plan.stored:
        _check_fit([*map(_Wanted.by, plain), *_wanted_of_quantized(model, plan)], weights)
    else:
        _check_fit([*map(_Wanted.by, slots)], weights)
    for slot in plain:
        # A file may hold a tied tensor under each of its names; the first is that of the embeddings.
        value = weights.load(next(name for name in slot.names if name in weights.tensors))
        if value.is_floating_point():
            value = value.to(weights.dtype)
        if isinstance(slot.tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=slot.tensor.requires_grad)
        for module, attribute in slot.places:
            setattr(module, attribute, value)
    if plan is not None:
        for name in plan.names:
            _quantize(model, name, weights, plan)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise WeightsError(f"the model keeps buffers that no checkpoint has and that stay empty: {', '.join(empty)}.")


def _quantize(model: nn.Module, name: str, weights: StoredWeights, plan: QuantizationPlan) -> None:
    """Replace a linear layer, whose weight is the only one that is there in both forms."""
    linear = cast(nn.Linear, model.get_submodule(name))
    layer = QuantizedLinear(
        plan.quantizer, linear.in_features, linear.out_features, dtype=weights.activations, bias=linear.bias
    )
    with naming(name):
        if plan.stored:
            layer.load({part: weights.load(f"{name}.{part}") for part in layer.layout()})
        else:
            layer.load(plan.quantizer.quantize(weights.load(f"{name}.weight")))
    model.set_submodule(name, layer)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor of a model with all its names and places: several where tensors are tied."""

    tensor: Tensor
    names: list[str]
    places: list[tuple[nn.Module, str]]


def _slots(model: nn.Module) -> list[_Slot]:
    slots: dict[int, _Slot] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        path, _, attribute = name.rpartition(".")
        slot = slots.setdefault(id(tensor), _Slot(tensor, [], []))
        slot.names.append(name)
        slot.places.append((model.get_submodule(path), attribute))
    return list(slots.values())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a checkpoint must have, under one of these names."""

    names: list[str]
    layout: TensorLayout
    any_float: bool = False

    @classmethod
    def by(cls, slot: _Slot) -> _Wanted:
        """A tensor of the model; a float may be stored in any type of floats."""
        layout = TensorLayout(slot.tensor.dtype, tuple(slot.tensor.shape))
        return cls(slot.names, layout, any_float=layout.dtype.is_floating_point)

    def problem(self, stored: StoredTensor) -> str | None:
        """Whether a stored tensor is of another shape or another type."""
        if not self.layout.fits(TensorLayout(self.layout.dtype, stored.shape)):
            return "of another shape"
        same = stored.dtype.is_floating_point if self.any_float else stored.dtype == self.layout.dtype
        return None if same else "of another type"

    def mismatch(self, problem: str, stored: StoredTensor) -> str:
        """What is stored, and what should be."""
        if problem == "of another shape":
            return f"stored {list(stored.shape)}, the config says {list(self.layout.shape)}"
        return f"stored {stored.dtype}, expected {'floats' if self.any_float else self.layout.dtype}"


def _wanted_of_quantized(model: nn.Module, plan: QuantizationPlan) -> Iterator[_Wanted]:
    for name in plan.names:
        linear = cast(nn.Linear, model.get_submodule(name))
        layouts = plan.quantizer.layout(linear.in_features, linear.out_features)
        yield from (_Wanted([f"{name}.{part}"], layout) for part, layout in layouts.items())


def _check_fit(wanted: Sequence[_Wanted], weights: StoredWeights) -> None:
    expected = {name: each for each in wanted for name in each.names}
    problems: dict[str, list[str]] = {
        "missing": [each.names[0] for each in wanted if weights.tensors.keys().isdisjoint(each.names)],
        "unexpected": sorted(weights.tensors.keys() - expected.keys()),
        "of another shape": [],
        "of another type": [],
    }
    for name, each in expected.items():
        problem = each.problem(weights.tensors[name]) if name in weights.tensors else None
        if problem is not None:
            problems[problem].append(f"{name} ({each.mismatch(problem, weights.tensors[name])})")
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise WeightsError(f"the weights in {weights.source} don't fit its config. {listed[0].upper()}{listed[1:]}.")
