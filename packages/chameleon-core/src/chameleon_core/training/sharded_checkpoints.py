"""The state of a run of several ranks, by ``torch.distributed.checkpoint``: each rank writes its own part.

The files are safetensors with the place of each part in their headers, so that any number of ranks can read them, and
nothing is unpickled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import AdamW

from ..divided import local_part
from ..errors import FileFormatError, WeightsError

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_shards(folder: Path, model: nn.Module, optimizer: AdamW) -> None:
    """Write the parameters that train and the optimizer's state into an empty folder, which all ranks share."""
    state: dict[str, Tensor] = {}
    for name, parameter in _trained(model).items():
        state[f"weights.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{key}.{name}"] = value.reshape(1) if key == "step" else value
    os.makedirs(folder, exist_ok=True)
    save(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def load_shards(folder: Path, model: nn.Module, optimizer: AdamW, *, steps: int) -> None:
    """Restore ``model`` and ``optimizer``, of any number of ranks, from what ``save_shards`` wrote.

    ``steps`` are those that the run has done. Everything is checked before anything is changed, on each rank what it
    reads. Raises ``WeightsError`` where the parameters that train aren't those of the files, ``FileFormatError`` for
    damaged ones.
    """
    advice = f"Remove {folder.parent} to start over."
    parameters = _trained(model)
    reader = HuggingFaceStorageReader(str(folder))
    try:
        stored = reader.read_metadata().state_dict_metadata
    # What the reader raises on a damaged file isn't documented.
    except Exception as error:
        raise FileFormatError(f"{folder} can't be read as shards: {_reason(error)}. {advice}") from error
    _check_stored(stored, parameters, source=folder)
    state: dict[str, Tensor] = {}
    for key in stored:
        kind, _, name = key.partition(".")
        state[key] = torch.zeros(1) if kind == "step" else torch.zeros_like(parameters[name])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")  # a single process loads, too
            load(state, storage_reader=reader)
    except Exception as error:
        raise FileFormatError(f"{folder} can't be read: {_reason(error)}. {advice}") from error
    for key, tensor in state.items():
        part, kind = local_part(tensor), key.partition(".")[0]
        if not bool(part.isfinite().all()):
            raise WeightsError(f"{folder} holds NaN or infinity: {key}. {advice}")
        if (kind == "step" and not 0 <= float(part) <= steps) or (kind == "exp_avg_sq" and bool((part < 0).any())):
            raise FileFormatError(f"{folder}: {key} is of a step other than 0…{steps}, or has squares < 0. {advice}")
    _apply(state, parameters, optimizer)


@torch.no_grad()
def _apply(state: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimizer: AdamW) -> None:
    optimizer.state.clear()
    for name, parameter in parameters.items():
        local_part(parameter).copy_(local_part(state[f"weights.{name}"]))
        if f"step.{name}" in state:
            moments = {key: state[f"{key}.{name}"] for key in MOMENTS}
            # A fused AdamW has it on the device.
            step = state[f"step.{name}"].reshape(()).to(parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}


def _check_stored(stored: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], *, source: Path) -> None:
    faults = [f"it lacks weights.{name}" for name in parameters if f"weights.{name}" not in stored]
    for key, found in stored.items():
        kind, _, name = key.partition(".")
        if kind not in ("weights", "step", *MOMENTS) or name not in parameters:
            faults.append(f"it has {key!a}")
            continue
        like = torch.zeros(1) if kind == "step" else parameters[name]
        assert isinstance(found, TensorStorageMetadata)
        if found.size != like.shape or found.properties.dtype != like.dtype:
            faults.append(
                f"{key} is {found.properties.dtype} {list(found.size)}, expected {like.dtype} {list(like.shape)}"
            )
        # The reader leaves what no file has as it was.
        elif sum(chunk.sizes.numel() for chunk in found.chunks) != found.size.numel():
            faults.append(f"{key} lacks the part of a file")
        elif kind != "weights" and any(f"{each}.{name}" not in stored for each in ("step", *MOMENTS)):
            faults.append(f"{key} is without the rest of the optimizer's state")
    if faults:
        raise WeightsError(f"{source} is the state of another model, or of other files: {'; '.join(faults[:5])}.")


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(".")[:200] or type(error).__name__
