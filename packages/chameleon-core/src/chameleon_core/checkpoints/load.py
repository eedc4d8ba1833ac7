"""Build a model from a stored checkpoint without ever holding it twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError, WeightsError
from ..registry import FORMATS_HOOK, REGISTRY
from .contract import IMAGE_PREFIX, Checkpoint, CheckpointFormat, CheckpointFormatSpec

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
    specs = [registered.spec for registered in REGISTRY.registered(FORMATS_HOOK)]
    formats = [spec for spec in specs if isinstance(spec, CheckpointFormatSpec)]
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


def _assign(
    model: nn.Module, checkpoint: Checkpoint, *, dtype: torch.dtype | None, device: torch.device, source: str
) -> None:
    """Replace the model's meta tensors one by one by those of the checkpoint."""
    places = _places(model)
    stored = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(IMAGE_PREFIX) and not name.endswith(_DERIVED_SUFFIX)
    }
    _check_fit(places, {name: tensor.shape for name, tensor in stored.items()}, source)
    filled: set[int] = set()
    for name, tensor in stored.items():
        old = places[name][0].tensor
        if id(old) in filled:
            continue  # Another name of a tied tensor, whose copies in the file are the same.
        filled.add(id(old))
        value = tensor.load()
        value = value.to(device, dtype if value.is_floating_point() else None)
        new = nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
        for place in places[name]:
            setattr(place.module, place.attribute, new)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise WeightsError(f"the model keeps buffers that no checkpoint has and that stay empty: {', '.join(empty)}.")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model keeps a tensor."""

    module: nn.Module
    attribute: str
    tensor: Tensor


def _places(model: nn.Module) -> dict[str, list[_Place]]:
    """For every name in the state dict, all places of its tensor: several where tensors are tied."""
    of_name: dict[str, _Place] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        path, _, attribute = name.rpartition(".")
        of_name[name] = _Place(model.get_submodule(path), attribute, tensor)
    of_tensor: dict[int, list[_Place]] = {}
    for place in of_name.values():
        of_tensor.setdefault(id(place.tensor), []).append(place)
    return {name: of_tensor[id(place.tensor)] for name, place in of_name.items()}


def _check_fit(places: Mapping[str, list[_Place]], stored: Mapping[str, tuple[int, ...]], source: str) -> None:
    present = {id(places[name][0].tensor) for name in stored if name in places}
    shapes = {name: tuple(place[0].tensor.shape) for name, place in places.items()}
    problems = {
        "missing": [name for name, place in places.items() if id(place[0].tensor) not in present],
        "unexpected": sorted(set(stored) - set(places)),
        "of another shape": [
            f"{name} (stored {list(shape)}, the config says {list(shapes[name])})"
            for name, shape in stored.items()
            if name in shapes and shape != shapes[name]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise WeightsError(f"the weights in {source} don't fit its config. {listed[0].upper()}{listed[1:]}.")
