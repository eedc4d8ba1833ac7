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
from .checkpoints.quantization_plan import QUANTIZATION_RECORD, Quantization, name_layer_in_errors, plan_quantization
from .errors import ConfigError
from .model import ChameleonForConditionalGeneration
from .model.leading import check_whole

__all__ = ["LayerReport", "Quantization", "QuantizationReport", "quantization_report", "quantize_model"]


@translates_errors
def quantize_model(model: ChameleonForConditionalGeneration, quantization: str | Quantization) -> None:
    """Quantize a model in memory, in place, a layer at a time. ``save_pretrained`` then writes it quantized.

    For a large model use ``from_pretrained(..., quantization=...)`` instead, which never holds all float weights in
    memory. ``quantization`` is the name of a weight quantizer or a ``Quantization``. Raises ``ConfigError`` where the
    model is quantized already or was loaded with ``tensor_parallel``, a pattern of ``skip`` matches no module, or the
    quantizer can't serve a layer.
    """
    check_whole(model, "quantize_model()")
    if QUANTIZATION_RECORD in model.config.extras:
        raise ConfigError(f"the model is quantized already: {model.config.extras[QUANTIZATION_RECORD]}.")
    plan = plan_quantization(model, Quantization.of(quantization), dtype=None, device=model.device)
    for name in plan.names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        with name_layer_in_errors(name):
            model.set_submodule(name, QuantizedLinear.from_linear(linear, plan.quantizer))
    model._use_config(plan.recorded_in(model.config))


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One quantized layer beside the float layer."""

    name: str
    """The name of the module."""
    num_bytes: int
    """The size of its stored tensors in bytes."""
    relative_error: float
    """‖quantized − float‖ / ‖float‖ of its weight."""
    largest_error: float
    """The largest absolute error of an element of its weight."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What the quantization of a model costs and saves. ``str`` returns it as a table."""

    record: str
    """The quantizer and its options, as the config records them."""
    float_bytes: int
    """The size of all weights of the float model in bytes."""
    quantized_bytes: int
    """The size of all weights of the quantized model in bytes, its float weights included."""
    layers: tuple[LayerReport, ...]
    """The quantized layers."""
    num_positions: int
    """The number of positions that the predictions were compared at."""
    mean_divergence: float
    """The mean Kullback-Leibler divergence of the quantized model's predictions from the float model's, in nats."""
    largest_divergence: float
    """The largest divergence of a position, in nats."""
    top1_agreement: float
    """The share of positions, 0…1, at which both models predict the same id."""

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [
            self.record,
            f"{_readable(self.quantized_bytes)}; the float model has {_readable(self.float_bytes)} "
            f"({self.quantized_bytes / self.float_bytes:.1%})",
            f"the likeliest id is the same at {self.top1_agreement:.2%} of {self.num_positions} positions",
            f"KL divergence: mean {self.mean_divergence:.2e} nats, largest {self.largest_divergence:.2e} nats",
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
@translates_errors
def quantization_report(
    reference: ChameleonForConditionalGeneration,
    quantized: ChameleonForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> QuantizationReport:
    """Compare a quantized model with its float model on given ids.

    ``input_ids`` int64 [B, T] and ``attention_mask`` [B, T] are as for the model. Rows are run and layers compared one
    after the other; a float model that stays memory-mapped takes hardly any memory. Raises ``ConfigError`` where
    ``quantized`` isn't quantized or ``reference`` isn't its float model, and where there are no ids.
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
        raise ConfigError("there are no ids to compare the models on: input_ids is empty or all padding.")
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
        raise ConfigError(
            f"the first model has no linear layer {name!r}; is it the float model of the second?"
        ) from cause
    if type(weight) is not nn.Parameter or weight.shape != (layer.out_features, layer.in_features):
        raise ConfigError(f"{name!r} of the first model isn't the float layer of the second model's.")
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
    """Return the divergence at each position that isn't padding, and whether the likeliest ids agree: [M] each."""
    expected_MV, actual_MV = (
        model(ids_1T.to(model.device), attention_mask=mask_1T.to(model.device), use_cache=False)
        .logits[mask_1T.bool()]
        .float()
        .log_softmax(-1)
        .cpu()
        for model in (reference, quantized)
    )
    # Negative only by rounding.
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
            "OUTPUT_LAYER": "chameleon_core.checkpoints.quantization_plan:OUTPUT_LAYER",
            "RECORD": "chameleon_core.checkpoints.quantization_plan:QUANTIZATION_RECORD",
            "QuantizationPlan": "chameleon_core.checkpoints.quantization_plan:QuantizationPlan",
            "naming": "chameleon_core.checkpoints.quantization_plan:name_layer_in_errors",
            "read_plan": "chameleon_core.checkpoints.quantization_plan:read_plan",
        },
    )
