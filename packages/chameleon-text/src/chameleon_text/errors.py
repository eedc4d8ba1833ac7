"""Errors of chameleon-text. Each derives from one base and from the built-in exception that fits."""

from __future__ import annotations


class ChameleonTextError(Exception):
    """Base of every error that chameleon-text raises on purpose."""


class ConfigError(ChameleonTextError, ValueError):
    """An argument or a setting has an impossible value."""


class FileFormatError(ChameleonTextError, ValueError):
    """A file's content isn't what its name says."""


class MissingFileError(ChameleonTextError, FileNotFoundError):
    """A file or folder doesn't exist."""


class FileAccessError(ChameleonTextError, OSError):
    """The system doesn't let a file be read or written."""


class VocabularyError(ChameleonTextError, ValueError):
    """A vocabulary lacks names, isn't a bijection, or doesn't have a code or an id."""


class EncodingError(ChameleonTextError, ValueError):
    """A text can't be written as ids without losing a part of it."""


class DocumentError(ChameleonTextError, ValueError):
    """A document, a message or a segment isn't understood."""


class ImageCountError(ChameleonTextError, ValueError):
    """The placeholders in the prompts and the pictures given beside them differ in number."""


class UnknownPluginError(ChameleonTextError, ValueError):
    """No plugin of the requested name is installed."""


class BrokenPluginError(ChameleonTextError, ImportError):
    """The requested plugin is installed but can't be used."""


class MissingPackageError(ChameleonTextError, ImportError):
    """The request needs a package that isn't installed, or an object of it that wasn't passed."""


class ReadOnlyError(ChameleonTextError, AttributeError):
    """An attribute was assigned that doesn't exist, or can't change once the object is made."""


class TokenizerWarning(UserWarning):
    """A tokenizer's files ask for something that isn't done here, or the tokenizer doesn't give every text back."""
