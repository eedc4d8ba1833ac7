"""Formats of checkpoints: what a checkpoint is, what a format does, and the built-in format ``hf``."""

from .._commits import stored
from .contract import IMAGE_PREFIX, Checkpoint, CheckpointFormat, StoredTensor
from .hf import GENERATION_FILE, HFFormat

__all__ = ["GENERATION_FILE", "IMAGE_PREFIX", "Checkpoint", "CheckpointFormat", "HFFormat", "StoredTensor", "stored"]
