"""The state of a run on disk: one file, replaced when the new state is complete."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from .._files import replacing
from ..file_access import writing
from ._old_names import RunLog as _RunLog
from .log import read_log as _read_log
from .stored_state import OptimizerState, Seconds, StepCount, read_state

CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "log.jsonl"

_OLD_NAMES = {
    "CHECKPOINT": (CHECKPOINT_FILE, "CHECKPOINT_FILE"),
    "LOG": (LOG_FILE, "LOG_FILE"),
    "RunLog": (_RunLog, "chameleon_vq.training.log.TrainingLog"),
    "read_log": (_read_log, "chameleon_vq.training.read_log"),
}


class Generators(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The states of torch's random generators."""

    cpu: Tensor
    cuda: Tensor | None = None
    """That of the device that trains, where it is one of CUDA."""


class RunState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds. The tensors are on the CPU."""

    step: StepCount
    """Steps that are done."""
    seconds: Seconds
    """Seconds that they took."""
    options: dict[str, Any]
    """``TrainingOptions.to_dict()``."""
    model: dict[str, Tensor]
    optimizer: OptimizerState
    usage: Tensor
    """``CodebookCare.usage_QZ``."""
    random: Generators
    discriminator: dict[str, Tensor] | None = None
    discriminator_optimizer: OptimizerState | None = None


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run, replacing the one before only when the file is complete."""
    with writing(folder / CHECKPOINT_FILE), replacing(folder / CHECKPOINT_FILE) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(folder: Path) -> RunState | None:
    """Read the state that was saved last, or return None if there is none.

    Raises ``FileFormatError``, ``FileAccessError``. Its tensors are still to be compared with those of the run.
    """
    path = folder / CHECKPOINT_FILE
    return read_state(path, RunState, advice="Delete it to start over.") if os.path.exists(path) else None


def __getattr__(name: str) -> Any:
    if name not in _OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value, place = _OLD_NAMES[name]
    warnings.warn(f"{__name__}.{name} is deprecated; use {place}.", DeprecationWarning, stacklevel=2)
    return value
