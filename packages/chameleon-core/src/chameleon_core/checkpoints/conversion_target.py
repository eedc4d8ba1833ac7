"""What may be in the folder that a conversion writes: nothing that it would change, unless that is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from .._commits import changed_by
from ..errors import ChameleonCoreError, ConfigError, FileAccessError
from ..formats import Checkpoint
from .load import format_of, read_checkpoint

_MOST_LISTED = 5
_ELSEWHERE = "Convert to a folder that isn't there or is empty"


def check_target(target: Path, checkpoint: Checkpoint, checkpoint_format: str, *, overwrite: bool) -> None:
    """Raise ``ConfigError`` where a folder has another model, or ``FileAccessError`` where it isn't a folder.

    Files that aren't a model's may be there, and so may the same model, as a conversion that was killed at its very end
    left it. What a save that was killed before left is none; the next save clears it away.
    """
    if os.path.lexists(target) and not os.path.isdir(target):
        raise FileAccessError(f"{target} is a file, expected the name of a folder. {_ELSEWHERE}.")
    found = _format_of(target) if os.path.isdir(target) else None
    if found is None:
        return
    if found != checkpoint_format:
        raise ConfigError(
            f"{target} has a model in the format {found}, and a folder has one model. {_ELSEWHERE}, or remove that "
            "model first."
        )
    if not overwrite and not _is_alike(target, checkpoint):
        raise ConfigError(
            f"{target} has another model, or one that can't be read. {_ELSEWHERE}, or pass overwrite=True (on the "
            "command line --overwrite) to replace it."
        )


def check_changes(save: Path, target: Path) -> None:
    """Raise ``ConfigError`` where the commit of a save would change or remove files of a folder."""
    changed = changed_by(save, target)
    if changed:
        raise ConfigError(
            f"{target} has files that the conversion would replace or remove: {_listed(changed)}. {_ELSEWHERE}, or "
            "pass overwrite=True (on the command line --overwrite) to replace them."
        )


def _format_of(target: Path) -> str | None:
    """Return the format of the model in a folder, None where it has none."""
    try:
        return format_of(target)
    except ChameleonCoreError:
        return None


def _is_alike(target: Path, checkpoint: Checkpoint) -> bool:
    """Return whether the model in a folder has tensors of the same names, shapes and types."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about what is there already
            there = read_checkpoint(target, rotary_layout="halves")
    except ChameleonCoreError:
        return False
    left, right = (
        {name: (each.shape, each.dtype) for name, each in which.tensors.items()} for which in (there, checkpoint)
    )
    return left == right


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
