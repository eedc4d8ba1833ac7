"""The plan of a quantization: which linear layers, by which weight quantizer, and how the config records it."""

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
from chameleon_backends.made_quantizer import returned_options
from chameleon_backends.plugin_calls import described, plugin_call, wrong
from chameleon_backends.registry import REGISTRY as BACKENDS
from chameleon_backends.registry import WEIGHT_QUANTIZERS_HOOK

from .._config import rejects_unknown_fields
from ..config import ChameleonConfig
from ..errors import ConfigError, WeightsError

QUANTIZATION_RECORD = "quantization_config"
"""The key of a config's extras that records the quantization of its model, as in ``transformers``."""
OUTPUT_LAYER = "lm_head"

# How many layers an error names for each reason.
_MAX_NAMED = 3


@rejects_unknown_fields
@dataclass(frozen=True)
class Quantization:
    """How to quantize the linear layers of a model. Embeddings and norms are never quantized."""

    method: str
    """The name of a weight quantizer of chameleon-backends, such as "int4"."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the weight quantizer; by default its own defaults."""
    skip: Sequence[str] = (OUTPUT_LAYER,)
    """Names of modules, or patterns of them (``"*.down_proj"``, ``"model.layers.0.*"``), whose layers stay float; by
    default the output layer."""

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not self.method:
            raise ConfigError(f"Quantization.method must be the name of a weight quantizer; got {self.method!r}.")
        if isinstance(self.skip, str):
            raise ConfigError(f"Quantization.skip must be a list of names or patterns; got the str {self.skip!r}.")

    @classmethod
    def of(cls, value: str | Quantization) -> Quantization:
        """Return ``value``, or the quantization with the default options of the quantizer that it names.

        Raises ``ConfigError`` for anything else.
        """
        if isinstance(value, Quantization):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ConfigError(
            f"quantization must be the name of a weight quantizer or a Quantization; got {value!r}. Instead of "
            "another library's config pass, for example, Quantization('bnb-nf4', {'compute_dtype': 'bfloat16'})."
        )


@dataclass(frozen=True)
class QuantizationPlan:
    """Which layers of a model to quantize, checked to be possible."""

    quantizer: WeightQuantizer
    """The weight quantizer with its options."""
    names: tuple[str, ...]
    """The names of the linear layers to quantize."""
    record: Mapping[str, Any]
    """What the config records, the same as in ``transformers``."""
    stored: bool
    """Whether the checkpoint stores these layers quantized."""

    def matches(self, requested: Quantization) -> bool:
        """Return whether the plan has the requested quantizer and options."""
        method, options = find_quantizer(self.record)
        return method == requested.method and {**options, **requested.options} == options

    def recorded_in(self, config: ChameleonConfig) -> ChameleonConfig:
        """Return the config of the quantized model."""
        return config.replace(extras={**config.extras, QUANTIZATION_RECORD: dict(self.record)})


def plan_quantization(
    model: nn.Module, quantization: Quantization, *, dtype: torch.dtype | None, device: torch.device
) -> QuantizationPlan:
    """Choose the layers of a float model, which may be on the meta device, and check that the quantizer serves them.

    ``dtype`` is the type that the weights will have on ``device``; None keeps their types. Raises ``ConfigError`` where
    a pattern of ``skip`` matches no module, no layer is left, or the quantizer can't serve a layer; and what
    ``get_weight_quantizer`` raises.
    """
    quantizer = get_weight_quantizer(quantization.method, **quantization.options)
    linears = _linears(model)
    skipped = _skipped(model, quantization.skip)
    chosen = {name: linear for name, linear in linears.items() if name not in skipped}
    if not chosen:
        raise ConfigError(f"no linear layer is left to quantize: skip={list(quantization.skip)} matches all of them.")
    tied = sorted(chosen.keys() & _tied(model))
    if tied:
        raise ConfigError(
            f"{', '.join(tied)} shares its weight with another layer (tie_word_embeddings), which would stay float. "
            "Add it to skip."
        )
    reasons = {
        name: _why_unsupported(
            quantizer,
            LinearSpec(
                in_features=linear.in_features,
                out_features=linear.out_features,
                dtype=dtype or linear.weight.dtype,
                device=device,
            ),
        )
        for name, linear in chosen.items()
    }
    _check_served(quantization.method, reasons)
    spec = BACKENDS.get(WEIGHT_QUANTIZERS_HOOK, quantization.method)
    assert isinstance(spec, WeightQuantizerSpec)
    left_out = [name for name in linears if name not in chosen]
    record = spec.write_record(returned_options(quantizer), left_out)
    return QuantizationPlan(quantizer, tuple(chosen), record, stored=False)


def read_plan(model: nn.Module, record: Mapping[str, Any], float_names: Collection[str]) -> QuantizationPlan:
    """Return the plan of a quantized checkpoint: all linear layers except those that it stores as floats.

    ``record`` is the config's, ``float_names`` are the floating-point tensors of the checkpoint. Raises what
    ``find_quantizer`` and ``get_weight_quantizer`` raise.
    """
    method, options = find_quantizer(record)
    quantizer = get_weight_quantizer(method, **options)
    others = {name.removesuffix(".weight") for name in float_names} | _tied(model)
    return QuantizationPlan(
        quantizer, tuple(name for name in _linears(model) if name not in others), record, stored=True
    )


@contextlib.contextmanager
def name_layer_in_errors(name: str) -> Iterator[None]:
    """Turn a quantizer's error in the block into a ``WeightsError`` that names the layer."""
    try:
        yield
    except (UnsupportedWeightError, BackendsConfigError) as error:
        raise WeightsError(f"{name} can't run quantized: {str(error).rstrip('.')}.") from error


def _why_unsupported(quantizer: WeightQuantizer, spec: LinearSpec) -> str | None:
    """Return why a quantizer can't serve a layer. Raises ``BrokenPluginError`` for whatever it does wrong."""
    with plugin_call(quantizer.owner, "calling its unsupported"):
        reason = quantizer.unsupported(spec)
    if reason is not None and not isinstance(reason, str):
        wrong(quantizer.owner, f"{described(reason)} from unsupported; expected a sentence, or None.")
    return reason


def _check_served(method: str, reasons: Mapping[str, str | None]) -> None:
    """Raise ``ConfigError`` where there is a reason why a layer can't be quantized."""
    refused: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason is not None:
            refused.setdefault(reason, []).append(name)
    if refused:
        listed = (f"{_shortened(names)}: {reason}" for reason, names in refused.items())
        raise ConfigError(
            f"{method!r} can't quantize {sum(map(len, refused.values()))} of {len(reasons)} layers. "
            f"{'. '.join(listed)}. Choose other options or another quantizer, or skip them: "
            f"Quantization({method!r}, skip=[...])."
        )


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


def _skipped(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the modules that match the patterns, and of all modules in them."""
    names = [name for name, _ in model.named_modules() if name]
    skipped: set[str] = set()
    for pattern in patterns:
        named = [name for name in names if fnmatchcase(name, pattern)]
        if not named:
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"skip has {pattern!r}, which matches no module of the model.{hint}")
        skipped |= {name for name in names for each in named if name == each or name.startswith(f"{each}.")}
    return skipped


def _tied(model: nn.Module) -> set[str]:
    """Return the linear layers that share their weight with another module."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.removesuffix(".weight"))
    return {name for names in owners.values() if len(names) > 1 for name in names} & _linears(model).keys()
