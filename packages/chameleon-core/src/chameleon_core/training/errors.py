"""The errors that only training raises."""

from __future__ import annotations

from ..errors import ChameleonCoreError


class DatasetError(ChameleonCoreError, ValueError):
    """A document, or a folder of documents, that can't be trained on as asked."""


class DivergenceError(ChameleonCoreError, ArithmeticError):
    """The loss or the gradients are no longer finite."""
