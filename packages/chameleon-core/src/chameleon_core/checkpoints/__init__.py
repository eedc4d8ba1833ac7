"""Checkpoints: what one is, reading and writing them, and the formats that they are kept in."""

from __future__ import annotations

from ..hookspecs import CheckpointFormatSpec
from .contract import IMAGE_PREFIX, Checkpoint, CheckpointFormat, StoredTensor
from .hf import GENERATION_FILE
from .load import LoadedCheckpoint, load_checkpoint, read_checkpoint, target_dtype
from .save import save_checkpoint, write_checkpoint

__all__ = [
    "GENERATION_FILE",
    "IMAGE_PREFIX",
    "Checkpoint",
    "CheckpointFormat",
    "CheckpointFormatSpec",
    "LoadedCheckpoint",
    "StoredTensor",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "target_dtype",
    "write_checkpoint",
]
