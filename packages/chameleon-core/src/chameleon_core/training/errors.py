"""The errors that only training raises, and the one for a package of the extra ``[train]`` that is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._moved import moved_names
from ..errors import ChameleonCoreError, MissingPackageError


class DatasetError(ChameleonCoreError, ValueError):
    """A document, or a folder of documents, can't be trained on as requested."""


class DivergenceError(ChameleonCoreError, ArithmeticError):
    """The loss or the gradients became NaN or infinite."""


@contextlib.contextmanager
def requires_extra(purpose: str, *, extra: str = "train") -> Iterator[None]:
    """Turn a failing import in the block into a ``MissingPackageError`` with the install line."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {error.name}, which can't be imported ({error}). "
            f"From the toolkit's folder: python -m pip install './packages/chameleon-core[{extra}]'"
        ) from error


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "train_extra": "chameleon_core.training.errors:requires_extra",
        },
    )
