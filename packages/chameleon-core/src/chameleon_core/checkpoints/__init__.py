"""Checkpoints: find a model's folder, load a model from it, save a model to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._moved import moved_names
from ..formats import IMAGE_PREFIX, Checkpoint, CheckpointFormat, StoredTensor
from ..hookspecs import CheckpointFormatSpec
from .load import LoadedCheckpoint, load_checkpoint, read_checkpoint, target_dtype
from .resolve import resolve_folder
from .save import save_checkpoint, write_checkpoint

__all__ = [
    "IMAGE_PREFIX",
    "Checkpoint",
    "CheckpointFormat",
    "CheckpointFormatSpec",
    "LoadedCheckpoint",
    "StoredTensor",
    "load_checkpoint",
    "read_checkpoint",
    "resolve_folder",
    "save_checkpoint",
    "target_dtype",
    "write_checkpoint",
]


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "GENERATION_FILE": "chameleon_core.formats:GENERATION_FILE",
        },
    )
