"""Chameleon: one transformer that reads and writes text and pictures in one stream of tokens (arXiv 2405.09818)."""

from __future__ import annotations

from .cache import KVCache
from .conditional_generation import CausalOutput, ChameleonForConditionalGeneration
from .config import ChameleonConfig
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
from .generation import GenerationOptions, Step
from .layout import TokenLayout
from .model import ChameleonModel, ModelOutput

__all__ = [
    "BrokenPluginError",
    "CausalOutput",
    "ChameleonConfig",
    "ChameleonCoreError",
    "ChameleonForConditionalGeneration",
    "ChameleonModel",
    "ConfigError",
    "ContextLengthError",
    "FileFormatError",
    "GenerationError",
    "GenerationOptions",
    "KVCache",
    "MissingPackageError",
    "ModelNotFoundError",
    "ModelOutput",
    "Step",
    "TokenLayout",
    "UnknownPluginError",
    "VocabularyError",
    "WeightsError",
]
