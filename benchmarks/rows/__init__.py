"""The rows of the benchmark: a module for each concern, and one list of all rows, in the order of the table.

A row is a ``Row`` of ``row.py``; to add one, write a function that prepares a ``Contest``, and name it in the ``ROWS``
of a module. Rows that share models follow each other, so that only one pair is in memory.
"""

from __future__ import annotations

from . import (
    checkpoints,
    embedded_model,
    image_tokenizer,
    imports,
    pictures,
    small_model,
    training_steps,
    wide_model,
)
from .row import Row

__all__ = ["ROWS"]

MODULES = (
    image_tokenizer,
    pictures,
    wide_model,
    small_model,
    embedded_model,
    training_steps,
    checkpoints,
    imports,
)
ROWS: list[Row] = [row for module in MODULES for row in module.ROWS]
