"""The state of a run on disk: one file, replaced when the new state is complete."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._files import replacing
from ..errors import FileFormatError
from ..file_access import writing
from ._old_names import RunLog as _RunLog
from .log import read_log as _read_log

CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "log.jsonl"

_OLD_NAMES = {
    "CHECKPOINT": (CHECKPOINT_FILE, "CHECKPOINT_FILE"),
    "LOG": (LOG_FILE, "LOG_FILE"),
    "RunLog": (_RunLog, "chameleon_vq.training.log.TrainingLog"),
    "read_log": (_read_log, "chameleon_vq.training.read_log"),
}


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run, replacing the one before only when the file is complete."""
    with writing(folder / CHECKPOINT_FILE), replacing(folder / CHECKPOINT_FILE) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the state that was saved last, or return None if there is none. Raises ``FileFormatError``."""
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load raises many more than it documents on a damaged file; none of them is more than that.
    except Exception as error:
        raise FileFormatError(
            f"{path} is not a checkpoint of a training run: {error}. Delete it to start over."
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise FileFormatError(f"{path} is not a checkpoint of a training run. Delete it to start over.")
    return state


def __getattr__(name: str) -> Any:
    if name not in _OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value, place = _OLD_NAMES[name]
    warnings.warn(f"{__name__}.{name} is deprecated; use {place}.", DeprecationWarning, stacklevel=2)
    return value
