"""Errors of chameleon-text: one base, and the built-in exception that fits beside it."""

from __future__ import annotations


class ChameleonTextError(Exception):
    """Base of every error that chameleon-text raises on purpose."""


class ConfigError(ChameleonTextError, ValueError):
    """An argument or a setting has an impossible value."""


class FileFormatError(ChameleonTextError, ValueError):
    """A file isn't what its name promises."""


class VocabularyError(ChameleonTextError, ValueError):
    """A vocabulary lacks names, isn't a bijection, or was asked for a code or an id that it doesn't have."""


class EncodingError(ChameleonTextError, ValueError):
    """A text can't be written as ids without losing a part of it."""


class DocumentError(ChameleonTextError, ValueError):
    """A document, a message or a segment isn't understood."""


class ImageCountError(ChameleonTextError, ValueError):
    """The placeholders in the prompts and the pictures given beside them differ in number."""


class UnknownPluginError(ChameleonTextError, ValueError):
    """Nothing is installed under the name that was asked for."""


class BrokenPluginError(ChameleonTextError, ImportError):
    """The plugin that was asked for is installed and can't be used."""


class MissingPackageError(ChameleonTextError, ImportError):
    """What was asked for needs a package that is not installed, or an object of it that was not passed."""
