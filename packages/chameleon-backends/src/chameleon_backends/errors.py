"""What this package raises. Every error derives from ``ChameleonBackendsError`` and from the built-in that fits."""

from __future__ import annotations


class ChameleonBackendsError(Exception):
    """Base of every error of this package."""


class ConfigError(ChameleonBackendsError, ValueError):
    """An impossible request: the field, its value and what is allowed."""


class UnsupportedAttentionError(ChameleonBackendsError, ValueError):
    """An attention backend can't serve a request; the message is its reason."""


class UnsupportedWeightError(ChameleonBackendsError, ValueError):
    """A weight quantizer can't serve a layer or a weight; the message is its reason."""


class UnknownPluginError(ChameleonBackendsError, ValueError):
    """No plugin of that name is installed."""


class BrokenPluginError(ChameleonBackendsError, ImportError):
    """The plugin of that name is installed and can't be used; the cause is chained."""


class MissingPackageError(ChameleonBackendsError, ImportError):
    """A package that this needs isn't installed; the message has the install line."""
