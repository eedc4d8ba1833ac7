"""The packages of the extra ``[train]``, imported when they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import MissingPackageError


@contextlib.contextmanager
def train_extra(purpose: str, *, extra: str = "train") -> Iterator[None]:
    """Turn a failing import into a ``MissingPackageError`` with the install line."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {error.name}, which can't be imported ({error}). "
            f"From the toolkit's folder: python -m pip install './packages/chameleon-core[{extra}]'"
        ) from error
