"""The state of a run on disk: the parameters that train as safetensors, the rest as tensors that load without pickle.

A checkpoint is a pair of files, or of several ranks a folder of shards, and ``checkpoint.json``, which names them and
is replaced last, so that a run that is killed while it saves resumes from the previous state.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import safetensors.torch
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim import AdamW

from .._commits import remove_leftovers
from .._files import check_is_file, read_json, replacing, write_json
from ..divided import placed_as
from ..errors import FileFormatError, WeightsError
from .ranks import Ranks
from .stored_state import OptimizerState, Seconds, StepCount, checked_generator, read_state

POINTER_FILE = "checkpoint.json"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a run is done."""

    step: StepCount = 0
    """Steps that are done."""
    num_tokens: StepCount = 0
    """Ids in the documents of these steps: prompts included, padding not."""
    seconds: Seconds = 0.0
    """Seconds that these steps took, added up over all resumptions of the run."""

    def after(self, num_tokens: int, seconds: float) -> Progress:
        """Return the progress after one more step."""
        return Progress(step=self.step + 1, num_tokens=self.num_tokens + num_tokens, seconds=self.seconds + seconds)


class _Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    weights: Annotated[str, Meta(pattern=r"^weights-[0-9A-Za-z-]+\.safetensors\Z")]
    state: Annotated[str, Meta(pattern=r"^state-[0-9A-Za-z-]+\.pt\Z")]
    progress: Progress


class _Shards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    shards: Annotated[str, Meta(pattern=r"^shards-[0-9A-Za-z-]+\Z")]
    progress: Progress


class _Generators(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cpu: Tensor
    cuda: list[Tensor]


class _State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    optimizer: OptimizerState
    generators: _Generators


def save_checkpoint(
    folder: str | os.PathLike[str], model: nn.Module, optimizer: AdamW, progress: Progress, ranks: Ranks
) -> None:
    """Save the parameters that train, the optimizer, the generators and ``progress``; remove the previous save.

    Of several ranks, each writes its own part into a folder that all have, and no generators.
    """
    folder = Path(folder)
    # Unique even when a step is saved again, so that files which the pointer names are never overwritten.
    suffix = f"{progress.step:07d}-{ranks.largest(secrets.randbits(32)):08x}"
    if ranks.mesh is not None:
        from .sharded_checkpoints import save_shards

        pointer: _Pointer | _Shards = _Shards(shards=f"shards-{suffix}", progress=progress)
        save_shards(folder / f"shards-{suffix}", model, optimizer)
    else:
        pointer = _Pointer(weights=f"weights-{suffix}.safetensors", state=f"state-{suffix}.pt", progress=progress)
        _save_files(folder / pointer.weights, folder / pointer.state, model, optimizer)
    if ranks.leads:
        write_json(folder / POINTER_FILE, msgspec.to_builtins(pointer))
        _remove_others(folder, suffix)
    ranks.wait()


def _save_files(weights: Path, state: Path, model: nn.Module, optimizer: AdamW) -> None:
    with replacing(weights) as temporary:
        safetensors.torch.save_file(
            {name: tensor.detach().contiguous() for name, tensor in _trained(model).items()}, temporary
        )
    with replacing(state) as temporary:
        torch.save({"optimizer": optimizer.state_dict(), "generators": _generators()}, temporary)


def _remove_others(folder: Path, suffix: str) -> None:
    """Remove all states but that of the save with this suffix."""
    remove_leftovers(folder)
    for pattern in ("weights-*.safetensors", "state-*.pt", "shards-*"):
        for path in folder.glob(pattern):
            if path.name.removesuffix(".safetensors").removesuffix(".pt").partition("-")[2] != suffix:
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    path.unlink()


def load_checkpoint(
    folder: str | os.PathLike[str], model: nn.Module, optimizer: AdamW, *, steps: int
) -> Progress | None:
    """Restore ``model``, ``optimizer`` and torch's generators from ``folder``; return None where it has no state.

    Any number of ranks reads what any other number has saved, the generators of a single process apart. ``steps`` are
    those of the whole run. Everything is checked before anything is changed. Raises ``WeightsError``
    where the parameters that train aren't those of the checkpoint or aren't finite, ``FileFormatError``,
    ``MissingFileError`` and ``FileAccessError`` for damaged files.
    """
    folder = Path(folder)
    pointer = _read_pointer(folder)
    if pointer is None:
        return None
    if pointer.progress.step > steps:
        raise FileFormatError(
            f"{folder / POINTER_FILE} is of step {pointer.progress.step:,} of a run of {steps:,} steps. Remove the "
            "folder to start over."
        )
    if isinstance(pointer, _Shards):
        from .sharded_checkpoints import load_shards

        load_shards(folder / pointer.shards, model, optimizer, steps=pointer.progress.step)
        return pointer.progress
    weights = _read_weights(folder / pointer.weights)
    state = read_state(folder / pointer.state, _State, advice=f"Remove {folder} to start over.")
    _check_weights(model, weights, source=folder / pointer.weights)
    source = folder / pointer.state
    optimizer_state = state.optimizer.checked(optimizer, steps=pointer.progress.step, source=source)
    cpu = checked_generator(state.generators.cpu, device="cpu", name=f"{source}: the generator")
    # A machine with fewer devices than that of the file doesn't give the same numbers in any case.
    cuda = [
        checked_generator(each, device=f"cuda:{number}", name=f"{source}: the generator of cuda:{number}")
        for number, each in enumerate(state.generators.cuda[: torch.cuda.device_count()])
    ]
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(placed_as(weights[name], parameter))
    optimizer.load_state_dict(_placed(optimizer_state, optimizer))
    torch.set_rng_state(cpu)
    for number, each in enumerate(cuda):
        torch.cuda.set_rng_state(each, number)
    return pointer.progress


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _placed(state: dict[str, Any], optimizer: AdamW) -> dict[str, Any]:
    """Return the state of an optimizer with each moment divided among ranks as its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: value if name == "step" else placed_as(value, parameters[index]) for name, value in each.items()}
        for index, each in state["state"].items()
    }
    return {**state, "state": moments}


def _read_weights(path: Path) -> dict[str, Tensor]:
    check_is_file(path)
    try:
        return safetensors.torch.load_file(path)
    # safetensors' own error, and what its reader for torch raises for types that torch lacks.
    except Exception as error:
        raise FileFormatError(
            f"{path} of the checkpoint can't be read: {error}. Remove {path.parent} to start over."
        ) from error


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    trained = _trained(model)
    shared = [(name, parameter, weights[name]) for name, parameter in trained.items() if name in weights]
    faults = {
        "missing": sorted(trained.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - trained.keys()),
        "of another shape": [
            f"{name} {list(found.shape)}, expected {list(parameter.shape)}"
            for name, parameter, found in shared
            if found.shape != parameter.shape
        ],
        "of another type": [
            f"{name} {found.dtype}, expected {parameter.dtype}"
            for name, parameter, found in shared
            if found.dtype != parameter.dtype
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise WeightsError(f"{source} is the state of another model. {listed}.")
    bad = [name for name, _, found in shared if not bool(found.isfinite().all())]
    if bad:
        raise WeightsError(f"{source} holds NaN or infinity: {', '.join(bad)}. Remove {source.parent} to start over.")


def _generators() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _read_pointer(folder: Path) -> _Pointer | _Shards | None:
    path = folder / POINTER_FILE
    if not os.path.exists(path):
        return None
    found = read_json(path)
    try:
        if "shards" in found:
            return msgspec.convert(found, _Shards)
        pointer = msgspec.convert(found, _Pointer)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{path} doesn't name a checkpoint: {error}. Remove the folder to start over.") from error
    names = (pointer.weights.removeprefix("weights-"), pointer.state.removeprefix("state-"))
    if Path(names[0]).stem != Path(names[1]).stem:
        raise FileFormatError(
            f"{path} names {pointer.weights} and {pointer.state}, which weren't saved together. Remove the folder to "
            "start over."
        )
    return pointer
