"""The errors of chameleon-core: one base, and each also the built-in that fits.

The registry of plugins is chameleon-backends', and so are the two errors that it raises.
"""

from __future__ import annotations

from chameleon_backends.errors import BrokenPluginError, UnknownPluginError

__all__ = [
    "BrokenPluginError",
    "ChameleonCoreError",
    "ConfigError",
    "ContextLengthError",
    "FileFormatError",
    "GenerationError",
    "MissingPackageError",
    "ModelNotFoundError",
    "UnknownPluginError",
    "VocabularyError",
    "WeightsError",
]


class ChameleonCoreError(Exception):
    """The base of every error that chameleon-core raises on purpose."""


class ConfigError(ChameleonCoreError, ValueError):
    """A configuration has an unknown or an impossible value."""


class VocabularyError(ChameleonCoreError, ValueError):
    """A vocabulary map lacks a special token, or isn't a bijection between codes and ids."""


class FileFormatError(ChameleonCoreError, ValueError):
    """A file isn't what its name or its reader promises."""


class WeightsError(ChameleonCoreError, ValueError):
    """A checkpoint's tensors don't fit the model: missing, unexpected or of another shape."""


class ContextLengthError(ChameleonCoreError, ValueError):
    """A request needs more positions than the model has."""


class GenerationError(ChameleonCoreError, ValueError):
    """Options of generation that contradict each other or the model."""


class ModelNotFoundError(ChameleonCoreError, FileNotFoundError):
    """A name that is neither a folder nor a known model."""


class MissingPackageError(ChameleonCoreError, ImportError):
    """An optional package is needed and not installed; the message has the install line."""
