"""Checkpoints: find a model's folder, load a model from it, save a model to it."""

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
