"""The public names of the package, which ``chameleon_core`` itself gives out."""

from __future__ import annotations

from chameleon_backends.plugins import PluginSpec, PluginWarning

from .cache import KVCache
from .checkpoints import load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from .conditional_generation import CausalOutput, ChameleonForConditionalGeneration
from .config import ChameleonConfig
from .convert import pool_checkpoint, pool_key_value_heads
from .documents import save_document
from .errors import (
    BrokenPluginError,
    ChameleonCoreError,
    ConfigError,
    ContextLengthError,
    FileFormatError,
    GenerationError,
    MissingPackageError,
    ModelNotFoundError,
    UnknownPluginError,
    VocabularyError,
    WeightsError,
)
from .events import Event, Finished, ImageFinished, ImageProgress, ImageStarted, TextDelta
from .generation import GenerationOptions, Step
from .hookspecs import HOOK_API_VERSION, CheckpointFormatSpec, hookimpl
from .layout import TokenLayout
from .model import ChameleonModel, ModelOutput
from .pipeline import Chameleon

__all__: list[str] = [
    "HOOK_API_VERSION",
    "BrokenPluginError",
    "CausalOutput",
    "Chameleon",
    "ChameleonConfig",
    "ChameleonCoreError",
    "ChameleonForConditionalGeneration",
    "ChameleonModel",
    "CheckpointFormatSpec",
    "ConfigError",
    "ContextLengthError",
    "Event",
    "FileFormatError",
    "Finished",
    "GenerationError",
    "GenerationOptions",
    "ImageFinished",
    "ImageProgress",
    "ImageStarted",
    "KVCache",
    "MissingPackageError",
    "ModelNotFoundError",
    "ModelOutput",
    "PluginSpec",
    "PluginWarning",
    "Step",
    "TextDelta",
    "TokenLayout",
    "UnknownPluginError",
    "VocabularyError",
    "WeightsError",
    "hookimpl",
    "load_checkpoint",
    "pool_checkpoint",
    "pool_key_value_heads",
    "read_checkpoint",
    "save_checkpoint",
    "save_document",
    "write_checkpoint",
]
