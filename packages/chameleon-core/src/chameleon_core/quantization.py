"""Quantization of a model in memory, and what it costs: bytes, errors of the weights, divergence of the predictions.

Shapes: B batch, T positions of a row, M positions of all rows that aren't padding, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from ._boundary import translates_errors
from ._moved import moved_names
from .checkpoints.quantization_plan import QUANTIZATION_RECORD, Quantization, naming, plan_quantization
from .errors import ConfigError
from .model import ChameleonForConditionalGeneration

__all__ = ["LayerReport", "Quantization", "QuantizationReport", "quantization_report", "quantize_model"]


@translates_errors
def quantize_model(model: ChameleonForConditionalGeneration, quantization: str | Quantization) -> None:
    """Quantize a model that is in memory, in place, a layer at a time; ``save_pretrained`` then writes it quantized.

    To load a large model, give ``from_pretrained`` its argument ``quantization`` instead: the float weights are then
    never in memory as a whole. Raises ``ConfigError`` as ``plan_quantization`` does, and where it is quantized already.
    """
    if QUANTIZATION_RECORD in model.config.extras:
        raise ConfigError(f"the model is quantized already: {model.config.extras[QUANTIZATION_RECORD]}.")
    plan = plan_quantization(model, Quantization.of(quantization), dtype=None, device=model.device)
    for name in plan.names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        with naming(name):
            model.set_submodule(name, QuantizedLinear.from_linear(linear, plan.quantizer))
    model.config = model.model.config = plan.recorded_in(model.config)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One quantized layer."""

    name: str
    num_bytes: int
    relative_error: float
    """‖quantized − float‖ / ‖float‖ of its weight."""
    largest_error: float
    """Of a single weight."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """A quantized model beside the float model that it was made of. ``str`` gives it as a text."""

    record: str
    """What it was quantized with."""
    float_bytes: int
    """Of all weights of the float model."""
    quantized_bytes: int
    """Of all weights of the quantized model, those that stayed floats included."""
    layers: tuple[LayerReport, ...]
    num_positions: int
    mean_divergence: float
    """The Kullback-Leibler divergence of the quantized model's predictions from the float model's, in nats."""
    largest_divergence: float
    """Of a single position."""
    top1_agreement: float
    """The share of positions where both think the same id the likeliest."""

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [
            self.record,
            f"{_readable(self.quantized_bytes)} where the float model has {_readable(self.float_bytes)} "
            f"({self.quantized_bytes / self.float_bytes:.1%})",
            f"the likeliest id is the same in {self.top1_agreement:.2%} of {self.num_positions} positions",
            f"KL divergence {self.mean_divergence:.2e} nats, {self.largest_divergence:.2e} where it is largest",
            "",
            f"{'layer':{width}}  {'bytes':>9}  error of the weight, largest",
        ]
        lines += [
            f"{layer.name:{width}}  {_readable(layer.num_bytes):>9}  {layer.relative_error:.3%}, "
            f"{layer.largest_error:.2e}"
            for layer in self.layers
        ]
        return "\n".join(lines)


@torch.no_grad()
def quantization_report(
    reference: ChameleonForConditionalGeneration,
    quantized: ChameleonForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> QuantizationReport:
    """Compare a quantized model with the float model that it was made of, on given ids.

    ``input_ids`` int64 [B, T], ``attention_mask`` [B, T] as for the model. Rows are run one after the other, and layers
    compared one after the other; a float model that is mapped from its files takes next to no memory of its own. Raises
    ``ConfigError`` where the second model isn't quantized, or isn't made of the first.
    """
    if QUANTIZATION_RECORD not in quantized.config.extras:
        raise ConfigError("the second model isn't quantized: load it with from_pretrained(folder, quantization=...).")
    layers = tuple(
        _compare(name, reference, layer)
        for name, layer in quantized.named_modules()
        if isinstance(layer, QuantizedLinear)
    )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if not mask.any():
        raise ConfigError("there are no ids to compare the models on: input_ids is empty, or padding alone.")
    divergences, agreements = zip(
        *(_predictions(reference, quantized, ids[None], real[None]) for ids, real in zip(input_ids, mask, strict=True)),
        strict=True,
    )
    divergence_M, agrees_M = torch.cat(divergences), torch.cat(agreements)
    return QuantizationReport(
        record=", ".join(f"{name}={value}" for name, value in quantized.config.extras[QUANTIZATION_RECORD].items()),
        float_bytes=_num_bytes(reference),
        quantized_bytes=_num_bytes(quantized),
        layers=layers,
        num_positions=len(divergence_M),
        mean_divergence=divergence_M.mean().item(),
        largest_divergence=divergence_M.max().item(),
        top1_agreement=agrees_M.double().mean().item(),
    )


def _compare(name: str, reference: nn.Module, layer: QuantizedLinear) -> LayerReport:
    try:
        weight = reference.get_submodule(name).weight
    except AttributeError as cause:
        raise ConfigError(f"the first model has no linear layer {name!r}; is it the other's float model?") from cause
    if type(weight) is not nn.Parameter or weight.shape != (layer.out_features, layer.in_features):
        raise ConfigError(f"{name!r} of the first model isn't the float layer that the second quantizes.")
    error = layer.dequantize().sub_(weight)
    return LayerReport(
        name,
        sum(tensor.nbytes for tensor in layer.stored().values()),
        (error.norm() / weight.float().norm()).item(),
        error.abs().max().item(),
    )


def _predictions(
    reference: ChameleonForConditionalGeneration,
    quantized: ChameleonForConditionalGeneration,
    ids_1T: Tensor,
    mask_1T: Tensor,
) -> tuple[Tensor, Tensor]:
    """The divergence of each position that is no padding, and whether the likeliest ids agree: [M] each."""
    expected_MV, actual_MV = (
        model(ids_1T.to(model.device), mask_1T.to(model.device)).logits[mask_1T.bool()].float().log_softmax(-1).cpu()
        for model in (reference, quantized)
    )
    # Never below zero, but for rounding.
    divergence_M = (expected_MV.exp() * (expected_MV - actual_MV)).sum(-1).clamp(min=0)
    return divergence_M, expected_MV.argmax(-1) == actual_MV.argmax(-1)


def _num_bytes(model: nn.Module) -> int:
    quantized = (module for module in model.modules() if isinstance(module, QuantizedLinear))
    return sum(parameter.nbytes for parameter in model.parameters()) + sum(
        tensor.nbytes for layer in quantized for tensor in layer.stored().values()
    )


def _readable(count: int) -> str:
    unit, name = next(((size, name) for size, name in ((1e9, "GB"), (1e6, "MB")) if count >= size), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "RECORD": "chameleon_core.checkpoints.quantization_plan:QUANTIZATION_RECORD",
            "QuantizationPlan": "chameleon_core.checkpoints.quantization_plan:QuantizationPlan",
            "read_plan": "chameleon_core.checkpoints.quantization_plan:read_plan",
        },
    )
