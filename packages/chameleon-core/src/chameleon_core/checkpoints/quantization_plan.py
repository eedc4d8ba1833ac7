"""Quantization of a model: which linear layers, by which weight quantizer, and how the config records it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from chameleon_backends import (
    LinearSpec,
    UnsupportedWeightError,
    WeightQuantizer,
    WeightQuantizerSpec,
    find_quantizer,
    get_weight_quantizer,
)
from chameleon_backends.errors import ConfigError as BackendsConfigError
from chameleon_backends.registry import REGISTRY as BACKENDS
from chameleon_backends.registry import WEIGHT_QUANTIZERS_HOOK

from ..config import ChameleonConfig
from ..errors import ConfigError, WeightsError

QUANTIZATION_RECORD = "quantization_config"
"""Where a config says what its model was quantized with; other libraries look there, too."""
OUTPUT_LAYER = "lm_head"

# How many layers an error lists for each reason.
LISTED = 3


@dataclass(frozen=True)
class Quantization:
    """How to quantize a model: the weight quantizer ``method`` with its ``options``, but for the layers ``skip``.

    ``skip`` has names of modules, or patterns of them (``"*.down_proj"``, ``"model.layers.0.*"``); what they hold stays
    as it is. The output layer is skipped unless you say otherwise. Embeddings and norms aren't linear layers, and are
    never quantized.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    skip: Sequence[str] = (OUTPUT_LAYER,)

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not self.method:
            raise ConfigError(f"Quantization.method must be the name of a weight quantizer; got {self.method!r}.")
        if isinstance(self.skip, str):
            raise ConfigError(f"Quantization.skip must be a list of names or patterns; got the text {self.skip!r}.")

    @classmethod
    def of(cls, value: str | Quantization) -> Quantization:
        """A quantizer's name stands for its default options."""
        if isinstance(value, Quantization):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ConfigError(
            f"quantization must be the name of a weight quantizer or a Quantization; got {value!r}. In place of "
            "another library's config say, for example, Quantization('bnb-nf4', {'compute_dtype': 'bfloat16'})."
        )


@dataclass(frozen=True)
class QuantizationPlan:
    """What is to be done to a model, once it is sure that it can be."""

    quantizer: WeightQuantizer
    names: tuple[str, ...]
    """Of the linear layers that are quantized."""
    record: Mapping[str, Any]
    stored: bool
    """Whether the checkpoint has them quantized already."""

    def answers(self, asked: Quantization) -> bool:
        """Whether this is what was asked for, by name or with its options."""
        method, options = find_quantizer(self.record)
        return method == asked.method and (not asked.options or {**options, **asked.options} == options)

    def recorded_in(self, config: ChameleonConfig) -> ChameleonConfig:
        """The config of the quantized model."""
        return config.replace(extras={**config.extras, QUANTIZATION_RECORD: dict(self.record)})


def plan_quantization(
    model: nn.Module, quantization: Quantization, *, dtype: torch.dtype | None, device: torch.device
) -> QuantizationPlan:
    """Choose the layers of a float model, which may be without memory, and ask the quantizer if it serves them all.

    ``dtype`` is what the weights will be; None leaves each as it is. Raises ``ConfigError`` where a pattern of ``skip``
    fits no module, nothing is left, or the quantizer can't serve a layer; and what ``get_weight_quantizer`` raises.
    """
    quantizer = get_weight_quantizer(quantization.method, **quantization.options)
    linears = _linears(model)
    skipped = _skipped(model, quantization.skip)
    chosen = {name: linear for name, linear in linears.items() if name not in skipped}
    if not chosen:
        raise ConfigError(f"no linear layer is left to quantize: skip={list(quantization.skip)} leaves out all.")
    tied = sorted(chosen.keys() & _tied(model))
    if tied:
        raise ConfigError(
            f"{', '.join(tied)} shares its weight with another layer (tie_word_embeddings), which would stay float; "
            "leave it out with skip."
        )
    reasons = {
        name: quantizer.unsupported(
            LinearSpec(
                in_features=linear.in_features,
                out_features=linear.out_features,
                dtype=dtype or linear.weight.dtype,
                device=device,
            )
        )
        for name, linear in chosen.items()
    }
    _check_served(quantization.method, reasons)
    spec = BACKENDS.get(WEIGHT_QUANTIZERS_HOOK, quantization.method)
    assert isinstance(spec, WeightQuantizerSpec)
    left_out = [name for name in linears if name not in chosen]
    return QuantizationPlan(quantizer, tuple(chosen), spec.write_record(quantizer.options(), left_out), stored=False)


def read_plan(model: nn.Module, record: Mapping[str, Any], float_names: Collection[str]) -> QuantizationPlan:
    """The plan of a checkpoint that is quantized: all linear layers but those whose weights it has as floats.

    ``float_names`` are the checkpoint's float tensors. Raises what ``find_quantizer`` and
    ``get_weight_quantizer`` raise.
    """
    method, options = find_quantizer(record)
    quantizer = get_weight_quantizer(method, **options)
    others = {name.removesuffix(".weight") for name in float_names} | _tied(model)
    return QuantizationPlan(
        quantizer, tuple(name for name in _linears(model) if name not in others), record, stored=True
    )


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Say which layer's weight a quantizer refuses, or can't read."""
    try:
        yield
    except (UnsupportedWeightError, BackendsConfigError) as error:
        raise WeightsError(f"{name} can't run quantized: {error}.") from error


def _check_served(method: str, reasons: Mapping[str, str | None]) -> None:
    """Raise ``ConfigError`` where there is a reason why a layer can't be quantized."""
    refused: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason is not None:
            refused.setdefault(reason, []).append(name)
    if refused:
        listed = (
            f"{', '.join(names[:LISTED])}{f' and {len(names) - LISTED} more' if len(names) > LISTED else ''}: {reason}"
            for reason, names in refused.items()
        )
        raise ConfigError(
            f"{method!r} can't quantize {sum(map(len, refused.values()))} of {len(reasons)} layers. "
            f"{'. '.join(listed)}. Choose other options or another quantizer, or leave them out: "
            f"Quantization({method!r}, skip=[...])."
        )


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


def _skipped(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The modules that the patterns name, and all that they hold."""
    names = [name for name, _ in model.named_modules() if name]
    skipped: set[str] = set()
    for pattern in patterns:
        named = [name for name in names if fnmatchcase(name, pattern)]
        if not named:
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"skip has {pattern!r}, which fits no module of the model.{hint}")
        skipped |= {name for name in names for each in named if name == each or name.startswith(f"{each}.")}
    return skipped


def _tied(model: nn.Module) -> set[str]:
    """The linear layers whose weight is another module's, too."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.removesuffix(".weight"))
    return {name for names in owners.values() if len(names) > 1 for name in names} & _linears(model).keys()
