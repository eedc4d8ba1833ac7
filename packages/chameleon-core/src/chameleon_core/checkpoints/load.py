"""Build a model from a stored checkpoint without ever holding it twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError, WeightsError
from ..hookspecs import CheckpointFormatSpec
from ..registry import FORMATS_HOOK, REGISTRY
from .contract import IMAGE_PREFIX, Checkpoint, CheckpointFormat, StoredTensor

ModelT = TypeVar("ModelT", bound=nn.Module)

# Old releases of the reference stored this buffer, which follows from the config.
_DERIVED_SUFFIX = "rotary_emb.inv_freq"

_DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint(Generic[ModelT]):
    """A model with its weights, in eval mode, and what the checkpoint says about generating with it."""

    model: ModelT
    config: ChameleonConfig
    generation_config: Mapping[str, Any]


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read what a folder holds, in whichever installed format it is; the tensors stay on disk.

    Raises ``FileFormatError`` where no format knows the folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileFormatError(f"{folder} is not a folder; a checkpoint is a folder with its configuration and weights.")
    formats = [cast(CheckpointFormatSpec, registered.spec) for registered in REGISTRY.registered(FORMATS_HOOK)]
    for spec in formats:
        if spec.matches(folder):
            reader: CheckpointFormat = spec.factory()
            return reader.read(folder)
    known = ", ".join(f"{spec.name} (by {spec.marks})" for spec in formats)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise FileFormatError(f"{folder} is in no format that is installed: {known}. Found: {found}.")


def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    build: Callable[[ChameleonConfig], ModelT],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
) -> LoadedCheckpoint[ModelT]:
    """Build the model of a folder and give it the weights there.

    ``build`` makes a model from a config; it runs on the meta device, so it must not compute with weights. ``dtype``
    is what floating weights become: None leaves each as it is stored, "auto" is the type that the config records.
    Weights that need neither another type nor another device stay views of the mapped files.

    Raises ``WeightsError`` with every tensor that is missing, unexpected or of another shape. The image tokenizer's
    tensors belong to another model and are none of these.
    """
    checkpoint = read_checkpoint(folder)
    target = _target_dtype(dtype, checkpoint.config)
    with torch.device("meta"), _NoDraws():
        model = build(checkpoint.config)
    _assign(model, checkpoint, dtype=target, device=torch.device(device), source=str(folder))
    model.eval()
    return LoadedCheckpoint(model, checkpoint.config, checkpoint.generation_config)


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


def _target_dtype(dtype: torch.dtype | str | None, config: ChameleonConfig) -> torch.dtype | None:
    name: Any = dtype
    if dtype == "auto":
        name = config.extras.get("dtype") or config.extras.get("torch_dtype")
    if name is None:
        return None
    value = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ConfigError(f"dtype must be a floating type such as torch.bfloat16, 'auto' or None; got {name!r}.")
    return value


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


def _assign(
    model: nn.Module, checkpoint: Checkpoint, *, dtype: torch.dtype | None, device: torch.device, source: str
) -> None:
    """Replace the model's meta tensors one by one by those of the checkpoint."""
    slots = _slots(model)
    stored = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(IMAGE_PREFIX) and not name.endswith(_DERIVED_SUFFIX)
    }
    _check_fit(slots, stored, source)
    for slot in slots:
        # A file may hold a tied tensor under each of its names; the first is that of the embeddings.
        name = next(name for name in slot.names if name in stored)
        value = stored[name].load()
        value = value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(slot.tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=slot.tensor.requires_grad)
        for module, attribute in slot.places:
            setattr(module, attribute, value)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise WeightsError(f"the model keeps buffers that no checkpoint has and that stay empty: {', '.join(empty)}.")


def _check_fit(slots: Sequence[_Slot], stored: Mapping[str, StoredTensor], source: str) -> None:
    expected = {name: tuple(slot.tensor.shape) for slot in slots for name in slot.names}
    problems = {
        "missing": [slot.names[0] for slot in slots if stored.keys().isdisjoint(slot.names)],
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            f"{name} (stored {list(stored[name].shape)}, the config says {list(shape)})"
            for name, shape in expected.items()
            if name in stored and stored[name].shape != shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise WeightsError(f"the weights in {source} don't fit its config. {listed[0].upper()}{listed[1:]}.")
