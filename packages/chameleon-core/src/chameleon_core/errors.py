"""The errors of chameleon-core: one base, and each also the built-in that fits.

What a sibling package raises within an entry point of this one derives from ``ChameleonCoreError``, too, and from the
sibling's own class (``_boundary``).
"""

from __future__ import annotations

from chameleon_backends import errors as backends


class ChameleonCoreError(Exception):
    """The base of every error that chameleon-core raises on purpose."""


class ConfigError(ChameleonCoreError, ValueError):
    """A configuration has an unknown field or an impossible value."""


class ArgumentError(ChameleonCoreError, TypeError):
    """A function was called with an argument that it doesn't have."""


class UnknownAttributeError(ChameleonCoreError, AttributeError):
    """An attribute was read or assigned that an object doesn't have."""


class InputError(ChameleonCoreError, ValueError):
    """A tensor that a model was called with has the wrong shape or type, or contradicts another one."""


class InputWarning(UserWarning):
    """A model was called with something that is rarely meant, such as padding without a mask."""


class InterchangeWarning(UserWarning):
    """What is saved is read by ``transformers`` without an error, and means something else there."""


class CheckpointWarning(UserWarning):
    """A checkpoint holds something that no part of the model is made of, and that isn't read."""


class VocabularyError(ChameleonCoreError, ValueError):
    """A vocabulary lacks a special token, isn't a bijection between codes and ids, or is another model's."""


class FileFormatError(ChameleonCoreError, ValueError):
    """A file doesn't have the format that its name or its reader promises."""


class MissingFileError(ChameleonCoreError, FileNotFoundError):
    """A file or folder doesn't exist."""


class FileAccessError(ChameleonCoreError, OSError):
    """A file can't be read or written: no permission, no space, or a folder or pipe in place of a file."""


class WeightsError(ChameleonCoreError, ValueError):
    """A checkpoint's tensors don't fit the model: missing, unexpected or of another shape."""


class ContextLengthError(ChameleonCoreError, ValueError):
    """A request needs more positions than the model has."""


class GenerationError(ChameleonCoreError, ValueError):
    """Options of generation that contradict each other or the model."""


class EngineFullError(ChameleonCoreError, RuntimeError):
    """As many requests wait as the engine takes; submit again later."""


class WorkerError(ChameleonCoreError, RuntimeError):
    """Processes that shared some work ended without doing it."""


class ModelNotFoundError(ChameleonCoreError, FileNotFoundError):
    """A name that is neither a folder nor a known model."""


class MissingPackageError(ChameleonCoreError, ImportError):
    """An optional package is needed and not installed; the message has the install line."""


class UnknownPluginError(ChameleonCoreError, backends.UnknownPluginError):
    """No plugin of that name is installed."""


class BrokenPluginError(ChameleonCoreError, backends.BrokenPluginError):
    """The plugin of that name is installed and can't be used; the cause is chained."""
