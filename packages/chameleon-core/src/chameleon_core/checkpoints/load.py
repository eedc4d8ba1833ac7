"""Load a model from a checkpoint without ever holding its weights twice."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from chameleon_backends.errors import BrokenPluginError
from chameleon_backends.errors import ConfigError as BackendsConfigError
from chameleon_backends.plugin_calls import described, plugin_call, wrong
from chameleon_backends.plugins import resolve

from .._boundary import translates_errors
from .._commits import read_whole
from .._meta import on_meta
from ..config import ChameleonConfig
from ..errors import CheckpointWarning, ConfigError, FileFormatError
from ..formats import Checkpoint, CheckpointFormat, StoredTensor
from ..hookspecs import CheckpointFormatSpec
from ..registry import CHECKPOINT_FORMATS_HOOK, REGISTRY
from .assign import MOST_LISTED, StoredWeights, assign, find_extra, find_misfits
from .folder_kinds import adapters_beside, is_adapter, part_in
from .published import canonical, check_family
from .quantization_plan import QUANTIZATION_RECORD, Quantization, QuantizationPlan, plan_quantization, read_plan
from .resolve import is_model_file
from .sizes import check_sizes

ModelT = TypeVar("ModelT", bound=nn.Module)

EXTRA_WEIGHTS = ("refuse", "keep")
"""What may be done with weights that a model has no place for."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint(Generic[ModelT]):
    """What ``load_checkpoint`` returns."""

    model: ModelT
    """The model with its weights, in eval mode."""
    config: ChameleonConfig
    """Its config, which records the quantization if there is one."""
    generation_config: Mapping[str, Any]
    """The content of ``generation_config.json``, which may be empty."""
    extra_weights: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model has no place for, as stored, where it was to be kept; by default nothing."""


@translates_errors
def read_checkpoint(
    folder: str | os.PathLike[str],
    *,
    rotary_layout: str | None = None,
    dequantize: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a folder in any of the installed formats. The tensors stay on disk.

    What publishers stored otherwise is brought into one layout, and what trainers left is dropped with a
    ``CheckpointWarning``; ``rotary_layout`` "pairs" converts query and key rows that rotate adjacent pairs. Layers that
    GPTQ, AWQ or compressed-tensors quantized become ours where these hold the same numbers, else floats;
    ``dequantize`` makes all of them floats. ``options`` are those of the format.

    Raises ``FileFormatError`` where no format recognizes the folder, or a file in it is damaged, and ``ConfigError``
    for an option that the format doesn't have, and for a quantization that isn't read.
    """
    folder = Path(folder)
    checkpoint = _read(_recognized(folder), folder, options or {})
    adapters = adapters_beside(folder)
    if adapters is not None:
        warnings.warn(adapters, CheckpointWarning, stacklevel=3)
    return canonical(checkpoint, source=str(folder), rotary_layout=rotary_layout, dequantize=dequantize)


def format_of(folder: Path) -> str:
    """Return the name of the format of a folder. Raises ``FileFormatError`` where no format recognizes it."""
    return _recognized(folder).name


def make_format(spec: CheckpointFormatSpec, options: Mapping[str, Any]) -> CheckpointFormat:
    """Return a format with options of its own. Raises ``ConfigError`` for one that it doesn't have."""
    if options:
        known = inspect.signature(resolve(spec.factory)).parameters
        takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
        unknown = [] if takes_any else [name for name in options if name not in known]
        if unknown:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"the checkpoint format {spec.name!r} has no option {unknown[0]!r}; {has}.")
    made: CheckpointFormat = spec.make(**options)
    return made


def _recognized(folder: Path) -> CheckpointFormatSpec:
    if not os.path.isdir(folder) and not is_model_file(folder):
        raise FileFormatError(f"{folder} is not a folder; expected a folder with the configuration and the weights.")
    return read_whole(folder, lambda: _first_that_recognizes(folder))


def _first_that_recognizes(folder: Path) -> CheckpointFormatSpec:
    formats = [
        cast(CheckpointFormatSpec, registered.spec) for registered in REGISTRY.registered(CHECKPOINT_FORMATS_HOOK)
    ]
    check_family(folder)
    failures = []
    for spec in formats:
        try:
            recognized = spec.recognizes(folder)
        except BrokenPluginError as error:
            failures.append(error)  # a plugin's mistake, which matters only where no other format is recognized
        else:
            if recognized:
                return spec
    if failures:
        raise failures[0]
    part = part_in(folder)
    if part is not None:
        raise FileFormatError(f"{folder} has no model; it is {part.what}: {part.advice}.")
    known = ", ".join(f"{spec.name} (recognized by {spec.marks})" for spec in formats)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise FileFormatError(f"{folder} has none of the installed formats: {known}. It holds: {found}.")


def _read(spec: CheckpointFormatSpec, folder: Path, options: Mapping[str, Any]) -> Checkpoint:
    """Return what a format reads. Raises ``BrokenPluginError`` for whatever it does wrong."""
    reader = make_format(spec, options)
    with plugin_call(spec.called, f"reading {folder}"):
        checkpoint = reader.read(folder)
    if not isinstance(checkpoint, Checkpoint) or not isinstance(checkpoint.config, ChameleonConfig):
        wrong(spec.called, f"{described(checkpoint)} from read; expected a Checkpoint with a ChameleonConfig.")
    if not isinstance(checkpoint.tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(each, StoredTensor) for name, each in checkpoint.tensors.items()
    ):
        wrong(spec.called, "a Checkpoint whose tensors aren't StoredTensors by name from read.")
    return checkpoint


@translates_errors
def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    build: Callable[[ChameleonConfig], ModelT],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    quantization: str | Quantization | None = None,
    check_finite: bool = True,
    extra_weights: str = "refuse",
    rotary_layout: str | None = None,
) -> LoadedCheckpoint[ModelT]:
    """Build the model of a folder and load its weights.

    ``build`` makes a model from a config. It runs on the meta device, so it must not compute with weights. ``dtype``
    is the type that floating-point weights are cast to: None keeps the stored types, "auto" is the type that the config
    records. Weights that need no other type and no other device stay views of the memory-mapped files.

    ``quantization`` quantizes the linear layers one after the other, so that at most one of them exists in both forms.
    A checkpoint that was saved quantized needs no argument. The returned config records the quantization.

    ``check_finite`` reads every weight once, after its cast, and raises ``WeightsError`` with the names of those that
    hold NaN or infinity. That takes 0.2 s for 500 MB in the page cache; False leaves mapped weights unread on disk.

    ``extra_weights`` "keep" returns weights that the model has no place for, such as another head of a finetune, which
    are an error otherwise. ``rotary_layout`` is that of ``read_checkpoint``.

    Raises ``WeightsError`` with every tensor that is missing, unexpected or of another shape or type, where tensors of
    the image tokenizer don't count. Raises ``ConfigError`` where ``device`` or ``quantization`` isn't available, or
    ``quantization`` differs from that of the checkpoint.
    """
    usable_device(device)
    return load_contents(
        read_checkpoint(folder, rotary_layout=rotary_layout),
        source=str(folder),
        build=build,
        dtype=dtype,
        device=device,
        quantization=quantization,
        check_finite=check_finite,
        extra_weights=extra_weights,
    )


def load_contents(
    checkpoint: Checkpoint,
    *,
    source: str,
    build: Callable[[ChameleonConfig], ModelT],
    dtype: torch.dtype | str | None,
    device: torch.device | str,
    quantization: str | Quantization | None,
    check_finite: bool,
    extra_weights: str = "refuse",
    own: Callable[[str, Tensor], Tensor] | None = None,
) -> LoadedCheckpoint[ModelT]:
    """Build a model and load its weights from a checkpoint that was read, which errors call ``source``.

    ``own(name, tensor)`` is the part of a tensor that this process has; None where it has all. The other arguments and
    errors are those of ``load_checkpoint``.
    """
    if extra_weights not in EXTRA_WEIGHTS:
        raise ConfigError(f"extra_weights must be 'refuse' or 'keep'; got {extra_weights!r}.")
    target = usable_device(device)
    weights = StoredWeights(checkpoint, target_dtype(dtype, checkpoint.config), target, source, check_finite, own)
    check_sizes(checkpoint.config, weights.tensors, source=source)
    # Weights that are made in inference mode could never be used outside of it.
    with torch.inference_mode(False):
        model = on_meta(lambda: build(checkpoint.config))
        plan = _plan(model, weights, quantization)
        if plan is not None and own is not None:
            raise ConfigError(
                f"{source} is quantized, and ranks can't divide quantized layers. Load a float checkpoint."
            )
        found = find_extra(model, weights, plan) if extra_weights == "keep" else []
        extra = [name for name in found if not is_adapter(name)]  # the model would compute without what they change
        # Before the others are checked, which these aren't among.
        kept = {name: weights.load(name) for name in extra}
        weights = replace(weights, checkpoint=_without(checkpoint, extra))
        assign(model, weights, plan)
    model.eval()
    if kept:
        warnings.warn(
            f"{source} has weights that the model has no place for, kept in extra_weights: {_listed(extra)}.",
            CheckpointWarning,
            stacklevel=4,
        )
    config = checkpoint.config if plan is None else plan.recorded_in(checkpoint.config)
    return LoadedCheckpoint(model, config, checkpoint.generation_config, kept)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _without(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    return replace(checkpoint, tensors={name: each for name, each in checkpoint.tensors.items() if name not in names})


def misfits_of(checkpoint: Checkpoint, build: Callable[[ChameleonConfig], nn.Module]) -> str:
    """Return which tensors of a checkpoint ``load_checkpoint`` would refuse, and why; "" where it takes all."""
    weights = StoredWeights(checkpoint, None, torch.device("cpu"), "the checkpoint")
    model = on_meta(lambda: build(checkpoint.config))
    return find_misfits(model, weights, _plan(model, weights, None))


def _plan(model: nn.Module, weights: StoredWeights, quantization: str | Quantization | None) -> QuantizationPlan | None:
    """Return which layers to quantize, or are quantized in the checkpoint; None where none are."""
    requested = None if quantization is None else Quantization.of(quantization)
    record = weights.checkpoint.config.extras.get(QUANTIZATION_RECORD)
    if record is None:
        if requested is None:
            return None
        return plan_quantization(model, requested, dtype=weights.activations, device=weights.device)
    try:
        plan = read_plan(model, record, weights.float_names)
    except BackendsConfigError as error:
        reason = str(error).rstrip(".")
        raise ConfigError(f"{weights.source} has a {QUANTIZATION_RECORD} that can't be used: {reason}.") from error
    if requested is not None and not plan.matches(requested):
        raise ConfigError(
            f"{weights.source} is quantized already, as its config records: {record!r}. "
            "Leave quantization out, or load a float checkpoint."
        )
    return plan


def target_dtype(dtype: torch.dtype | str | None, config: ChameleonConfig) -> torch.dtype | None:
    """Return the type that floating-point weights are cast to, or None to keep the stored types.

    Raises ``ConfigError`` where ``dtype`` isn't one of those types, its name, "auto" or None.
    """
    name: Any = dtype
    if dtype == "auto":
        name = config.extras.get("dtype") or config.extras.get("torch_dtype")
    if name is None or name == "auto":  # a file may say so, too
        return None
    value = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if value not in _DTYPES:
        raise ConfigError(
            "dtype must be a floating-point type that computes (float32, bfloat16, float16 or float64), 'auto' or "
            f"None; got {name!r}."
        )
    return value


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device that torch can use here. Raises ``ConfigError`` where it can't."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    # Which of them depends on how torch was built.
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"torch can't use the device {device!r} here: {reason}. device='cpu' always works."
        ) from error
    return found
