"""Assign the weights of a checkpoint to a model on the meta device, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, TensorLayout

from ..errors import WeightsError
from ..formats import IMAGE_PREFIX, Checkpoint, StoredTensor
from .folder_kinds import what_adapters
from .published import what_heads
from .quantization_plan import QuantizationPlan, name_layer_in_errors

MOST_LISTED = 10
"""Tensors of a kind that an error lists."""


@dataclass(frozen=True)
class StoredWeights:
    """The model's own tensors in a checkpoint, and how to load them."""

    checkpoint: Checkpoint
    dtype: torch.dtype | None
    """The type that floating-point weights are cast to; None keeps the stored types."""
    device: torch.device
    """Where the weights are moved."""
    source: str
    """The folder, for error messages."""
    check_finite: bool = False
    """Whether NaN and infinity in weights are an error."""
    own: Callable[[str, Tensor], Tensor] | None = None
    """What returns this process's part of a tensor by its name, a view; None where it has all."""
    not_finite: list[str] = field(default_factory=list)
    """The names of weights that hold NaN or infinity, with why, as far as weights were loaded."""

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors of the model by name, without those of the image tokenizer."""
        return {name: tensor for name, tensor in self.checkpoint.tensors.items() if not name.startswith(IMAGE_PREFIX)}

    @cached_property
    def float_names(self) -> list[str]:
        """The names of floating-point weights, without types of one byte, which may be codes of a quantizer."""
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1
        ]

    @property
    def activations(self) -> torch.dtype:
        """The type of the activations."""
        stored = (self.tensors[name].dtype for name in self.float_names)
        return self.dtype or next(stored, torch.float32)

    def load(self, name: str) -> Tensor:
        """Return a tensor in its stored type, on the device."""
        value = self.tensors[name].load()
        value = (value if self.own is None else self.own(name, value)).to(self.device)
        if self.check_finite and not is_finite(value):
            self.not_finite.append(name)
        return value

    def load_cast(self, name: str) -> Tensor:
        """Return a tensor in the type of the model, on the device."""
        value = self.load(name)
        if not value.is_floating_point() or self.dtype in (None, value.dtype):
            return value
        cast_value = value.to(self.dtype)
        narrows = self.dtype is not None and torch.finfo(self.dtype).max < torch.finfo(value.dtype).max
        if self.check_finite and narrows and name not in self.not_finite and not is_finite(cast_value):
            self.not_finite.append(f"{name} (finite as {value.dtype}, beyond what {self.dtype} holds)")
        return cast_value

    def raise_not_finite(self) -> None:
        """Raise ``WeightsError`` where a tensor that was loaded isn't finite."""
        if self.not_finite:
            raise WeightsError(
                f"the weights in {self.source} hold NaN or infinity: {_listed(self.not_finite)}. Load an intact "
                "copy, another dtype where the cast overflows, or pass check_finite=False to load them as they are."
            )


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite, at the speed of the memory and without a copy."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # types of one byte have no comparison
    # A sum takes a third of the time, and is finite only where all values are; a sum of finite ones may overflow.
    if tensor.sum().isfinite():
        return True
    least, greatest = tensor.aminmax()  # a NaN is both
    return bool(least.isfinite() and greatest.isfinite())


def assign(model: nn.Module, weights: StoredWeights, plan: QuantizationPlan | None = None) -> None:
    """Replace the meta tensors of a model by those of a checkpoint, and linear layers by quantized ones as planned.

    Raises ``WeightsError``, before anything is loaded, where the tensors of the checkpoint don't match the model.
    """
    quantized = {f"{name}.weight" for name in plan.names} if plan else set()
    misfits = find_misfits(model, weights, plan)
    if misfits:
        raise WeightsError(f"the weights in {weights.source} don't match its config. {misfits}.")
    _check_one_half_type(model, weights, quantized)
    for slot in (slot for slot in _slots(model) if quantized.isdisjoint(slot.names)):
        # A file may hold a tied tensor under each of its names; the first name is that of the embeddings.
        value = weights.load_cast(next(name for name in slot.names if name in weights.tensors))
        if isinstance(slot.tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=slot.tensor.requires_grad)
        for module, attribute in slot.places:
            setattr(module, attribute, value)
    if plan is not None:
        for name in plan.names:
            _quantize(model, name, weights, plan)
    weights.raise_not_finite()
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise WeightsError(
            f"no checkpoint has the model's persistent=False buffers, which stay empty: {', '.join(empty)}. "
            "Compute them in forward, or make them persistent."
        )


def find_extra(model: nn.Module, weights: StoredWeights, plan: QuantizationPlan | None) -> list[str]:
    """Return the tensors of a checkpoint that a model on the meta device has no place for."""
    expected = {name for each in _all_wanted(model, plan) for name in each.names}
    return sorted(weights.tensors.keys() - expected)


def find_misfits(model: nn.Module, weights: StoredWeights, plan: QuantizationPlan | None) -> str:
    """Return which tensors of a checkpoint a model on the meta device can't take, and why; "" where it takes all."""
    wanted = _all_wanted(model, plan)
    expected = {name: each for each in wanted for name in each.names}
    problems: dict[str, list[str]] = {
        "missing": [each.names[0] for each in wanted if weights.tensors.keys().isdisjoint(each.names)],
        "unexpected": sorted(weights.tensors.keys() - expected.keys()),
        "of another shape": [],
        "of another type": [],
    }
    for name, each in expected.items():
        problem = each.problem(weights.tensors[name], weights.dtype) if name in weights.tensors else None
        if problem is not None:
            problems[problem].append(f"{name} ({each.mismatch(problem, weights.tensors[name])})")
    listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
    return (
        f"{listed[:1].upper()}{listed[1:]}{what_heads(problems['unexpected'])}{what_adapters(problems['unexpected'])}"
    )


def _all_wanted(model: nn.Module, plan: QuantizationPlan | None) -> list[_Wanted]:
    slots = _slots(model)
    if plan is None or not plan.stored:
        return [*map(_Wanted.for_slot, slots)]
    quantized = {f"{name}.weight" for name in plan.names}
    kept = [slot for slot in slots if quantized.isdisjoint(slot.names)]
    return [*map(_Wanted.for_slot, kept), *_wanted_of_quantized(model, plan)]


def _check_one_half_type(model: nn.Module, weights: StoredWeights, quantized: set[str]) -> None:
    """Raise ``WeightsError`` where weights would stay float16 and bfloat16, which don't compute with each other."""
    names = [name for slot in _slots(model) for name in slot.names if name in weights.tensors and name not in quantized]
    found = {weights.tensors[name].dtype: name for name in names}
    if weights.dtype is None and {torch.float16, torch.bfloat16} <= found.keys():
        raise WeightsError(
            f"the weights in {weights.source} are of two types that don't compute with each other: "
            f"{found[torch.float16]} is float16, {found[torch.bfloat16]} is bfloat16. Pass the dtype to cast them to."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _quantize(model: nn.Module, name: str, weights: StoredWeights, plan: QuantizationPlan) -> None:
    """Replace a linear layer by a quantized one. Only this layer's weight exists in both forms meanwhile."""
    linear = cast(nn.Linear, model.get_submodule(name))
    layer = QuantizedLinear(
        plan.quantizer, linear.in_features, linear.out_features, dtype=weights.activations, bias=linear.bias
    )
    with name_layer_in_errors(name):
        if plan.stored:
            layer.load({part: weights.load(f"{name}.{part}") for part in layer.layout()})
        else:
            layer.quantize(weights.load(f"{name}.weight"))
            # A quantizer that doesn't check its weight hides the fault in the codes of this layer.
            weights.raise_not_finite()
    model.set_submodule(name, layer)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor of a model with its names and places, of which tied tensors have several."""

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
    """A tensor that the checkpoint must have, under one of several names."""

    names: list[str]
    layout: TensorLayout
    any_float: bool = False

    @classmethod
    def for_slot(cls, slot: _Slot) -> _Wanted:
        """Return what a tensor of the model needs; floating-point tensors may be stored in any floating type."""
        layout = TensorLayout(slot.tensor.dtype, tuple(slot.tensor.shape))
        return cls(slot.names, layout, any_float=layout.dtype.is_floating_point)

    def problem(self, stored: StoredTensor, dtype: torch.dtype | None) -> str | None:
        """Return how a stored tensor differs: by its shape, by its type, or None; floats are cast to ``dtype``."""
        if not self.layout.fits(TensorLayout(self.layout.dtype, stored.shape)):
            return "of another shape"
        same = stored.dtype.is_floating_point if self.any_float else stored.dtype == self.layout.dtype
        computes = not self.any_float or dtype is not None or stored.dtype.itemsize > 1
        return None if same and computes else "of another type"

    def mismatch(self, problem: str, stored: StoredTensor) -> str:
        """Return a description of what is stored and what is expected."""
        if problem == "of another shape":
            return f"stored {list(stored.shape)}, the config says {list(self.layout.shape)}"
        if not self.any_float:
            return f"stored {stored.dtype}, expected {self.layout.dtype}"
        cast_to = ", or a dtype to cast it to" if stored.dtype.is_floating_point else ""
        return f"stored {stored.dtype}, expected floats{' that compute' if cast_to else ''}{cast_to}"


def _wanted_of_quantized(model: nn.Module, plan: QuantizationPlan) -> Iterator[_Wanted]:
    for name in plan.names:
        linear = cast(nn.Linear, model.get_submodule(name))
        layouts = plan.quantizer.layout(linear.in_features, linear.out_features)
        yield from (_Wanted([f"{name}.{part}"], layout) for part, layout in layouts.items())
