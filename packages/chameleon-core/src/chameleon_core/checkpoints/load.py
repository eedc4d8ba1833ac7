"""Build a model from a stored checkpoint without ever holding it twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chameleon_backends.errors import ConfigError as BackendsConfigError
from chameleon_backends.plugins import resolve

from .._boundary import translates_errors
from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError
from ..formats import Checkpoint, CheckpointFormat
from ..hookspecs import CheckpointFormatSpec
from ..registry import CHECKPOINT_FORMATS_HOOK, REGISTRY
from .assign import StoredWeights, assign
from .quantization_plan import QUANTIZATION_RECORD, Quantization, QuantizationPlan, plan_quantization, read_plan

ModelT = TypeVar("ModelT", bound=nn.Module)

_DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint(Generic[ModelT]):
    """A model with its weights, in eval mode, and what the checkpoint says about generating with it."""

    model: ModelT
    config: ChameleonConfig
    generation_config: Mapping[str, Any]


@translates_errors
def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read what a folder holds, in whichever installed format it is; the tensors stay on disk.

    Raises ``FileFormatError`` where no format knows the folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileFormatError(f"{folder} is not a folder; a checkpoint is a folder with its configuration and weights.")
    formats = [
        cast(CheckpointFormatSpec, registered.spec) for registered in REGISTRY.registered(CHECKPOINT_FORMATS_HOOK)
    ]
    for spec in formats:
        if resolve(spec.matches)(folder):
            reader: CheckpointFormat = spec.make()
            return reader.read(folder)
    known = ", ".join(f"{spec.name} (by {spec.marks})" for spec in formats)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise FileFormatError(f"{folder} is in no format that is installed: {known}. Found: {found}.")


@translates_errors
def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    build: Callable[[ChameleonConfig], ModelT],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    quantization: str | Quantization | None = None,
) -> LoadedCheckpoint[ModelT]:
    """Build the model of a folder and give it the weights there.

    ``build`` makes a model from a config; it runs on the meta device, so it must not compute with weights. ``dtype``
    is what floating weights become: None leaves each as it is stored, "auto" is the type that the config records.
    Weights that need neither another type nor another device stay views of the mapped files.

    ``quantization`` quantizes the linear layers, one after the other, so that no more than one of them is ever there in
    both forms. A checkpoint that is quantized already needs no argument. The config that comes back records it.

    Raises ``WeightsError`` with every tensor that is missing, unexpected or of another shape or type. The image
    tokenizer's tensors belong to another model and are none of these. Raises ``ConfigError`` where ``quantization``
    can't be had, or isn't what the checkpoint is quantized with.
    """
    checkpoint = read_checkpoint(folder)
    weights = StoredWeights(checkpoint, target_dtype(dtype, checkpoint.config), torch.device(device), str(folder))
    with torch.device("meta"), _NoDraws():
        model = build(checkpoint.config)
    plan = _plan(model, weights, quantization)
    assign(model, weights, plan)
    model.eval()
    config = checkpoint.config if plan is None else plan.recorded_in(checkpoint.config)
    return LoadedCheckpoint(model, config, checkpoint.generation_config)


def _plan(model: nn.Module, weights: StoredWeights, quantization: str | Quantization | None) -> QuantizationPlan | None:
    """What is to be quantized, or is so in the checkpoint."""
    asked = None if quantization is None else Quantization.of(quantization)
    record = weights.checkpoint.config.extras.get(QUANTIZATION_RECORD)
    if record is None:
        if asked is None:
            return None
        return plan_quantization(model, asked, dtype=weights.activations, device=weights.device)
    try:
        plan = read_plan(model, record, weights.float_names)
    except BackendsConfigError as error:
        raise ConfigError(f"{weights.source} has a {QUANTIZATION_RECORD} that can't be used: {error}.") from error
    if asked is not None and not plan.answers(asked):
        raise ConfigError(
            f"{weights.source} is quantized already, as its config records: {record!r}. "
            "Leave quantization out, or load a folder of floats."
        )
    return plan


class _NoDraws(TorchFunctionMode):
    """Leaves out the random numbers of a model that is built without memory.

    They would go nowhere, and the first one on the meta device makes torch import its compiler: 3 s and 70 MB.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def target_dtype(dtype: torch.dtype | str | None, config: ChameleonConfig) -> torch.dtype | None:
    """What floating weights become: a type, or None where each stays as it is stored. Raises ``ConfigError``."""
    name: Any = dtype
    if dtype == "auto":
        name = config.extras.get("dtype") or config.extras.get("torch_dtype")
    if name is None:
        return None
    value = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ConfigError(f"dtype must be a floating type such as torch.bfloat16, 'auto' or None; got {name!r}.")
    return value
