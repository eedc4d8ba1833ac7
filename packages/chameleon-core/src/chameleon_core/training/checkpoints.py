"""The state of a run on disk: the parameters that train as safetensors, the rest as tensors that load without pickle.

A checkpoint is a pair of files and ``checkpoint.json``, which names them and is replaced last, so that a run that is
killed while it saves resumes from the previous state.
"""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._files import read_json, replacing, write_json
from ..errors import FileFormatError, WeightsError

POINTER_FILE = "checkpoint.json"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a run is done."""

    step: int = 0
    """Steps that are done."""
    num_tokens: int = 0
    """Ids in the documents of these steps: prompts included, padding not."""
    seconds: float = 0.0
    """Seconds that these steps took, added up over all resumptions of the run."""

    def after(self, num_tokens: int, seconds: float) -> Progress:
        """Return the progress after one more step."""
        return Progress(step=self.step + 1, num_tokens=self.num_tokens + num_tokens, seconds=self.seconds + seconds)


class _Pointer(msgspec.Struct, frozen=True, kw_only=True):
    weights: str
    state: str
    progress: Progress


def save_checkpoint(folder: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Save the parameters that train, the optimizer, the generators and ``progress``; remove the previous save."""
    folder = Path(folder)
    # Unique even when a step is saved again, so that files which the pointer names are never overwritten.
    suffix = f"{progress.step:07d}-{secrets.token_hex(4)}"
    pointer = _Pointer(weights=f"weights-{suffix}.safetensors", state=f"state-{suffix}.pt", progress=progress)
    with replacing(folder / pointer.weights) as temporary:
        safetensors.torch.save_file(
            {name: tensor.detach().contiguous() for name, tensor in _trained(model).items()}, temporary
        )
    with replacing(folder / pointer.state) as temporary:
        torch.save({"optimizer": optimizer.state_dict(), "generators": _generators()}, temporary)
    write_json(folder / POINTER_FILE, msgspec.to_builtins(pointer))
    # The previous state, and what killed runs left behind.
    for pattern in ("weights-*.safetensors", "state-*.pt", ".*.tmp"):
        for path in folder.glob(pattern):
            if path.name not in (pointer.weights, pointer.state):
                path.unlink()


def load_checkpoint(folder: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer) -> Progress | None:
    """Restore ``model``, ``optimizer`` and torch's generators from ``folder``; return None where it has no state.

    Raises ``WeightsError`` where the parameters that train aren't those of the checkpoint, ``FileFormatError`` for
    damaged files.
    """
    folder = Path(folder)
    pointer = _read_pointer(folder)
    if pointer is None:
        return None
    try:
        weights = safetensors.torch.load_file(folder / pointer.weights)
        state = torch.load(folder / pointer.state, map_location="cpu", weights_only=True)
        generators = state["generators"]
        optimizer_state = state["optimizer"]
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
        raise FileFormatError(
            f"the checkpoint {folder / POINTER_FILE} can't be read: {error}. Remove the folder to start over."
        ) from error
    _load_weights(model, weights, source=folder / pointer.weights)
    optimizer.load_state_dict(optimizer_state)
    _set_generators(generators)
    return pointer.progress


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    trained = _trained(model)
    missing = sorted(set(trained) - set(weights))
    unexpected = sorted(set(weights) - set(trained))
    misshaped = [
        f"{name} {list(weights[name].shape)}, expected {list(parameter.shape)}"
        for name, parameter in trained.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise WeightsError(f"{source} is the state of another model. {listed}.")
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


def _generators() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_generators(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _read_pointer(folder: Path) -> _Pointer | None:
    path = folder / POINTER_FILE
    if not path.exists():
        return None
    try:
        return msgspec.convert(read_json(path), _Pointer)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{path} doesn't name a checkpoint: {error}. Remove the folder to start over.") from error
