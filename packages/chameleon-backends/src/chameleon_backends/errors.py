"""The errors of this package. Each derives from ``ChameleonBackendsError`` and from the built-in that fits."""

from __future__ import annotations


class ChameleonBackendsError(Exception):
    """The base of every error of this package."""


class ConfigError(ChameleonBackendsError, ValueError):
    """A field or an option has an impossible value; the message has the field, the value and what is allowed."""


class UnsupportedAttentionError(ChameleonBackendsError, ValueError):
    """An attention backend can't serve a request, or can't run here; the message has its reason."""


class UnsupportedWeightError(ChameleonBackendsError, ValueError):
    """A weight quantizer can't serve a layer or a weight, or can't run here; the message has its reason."""


class UnknownPluginError(ChameleonBackendsError, ValueError):
    """No plugin of that name is installed."""


class BrokenPluginError(ChameleonBackendsError, ImportError):
    """The plugin of that name is installed and can't be used; the cause is chained."""


class MissingPackageError(ChameleonBackendsError, ImportError):
    """An optional package isn't installed; the message has the install line."""
