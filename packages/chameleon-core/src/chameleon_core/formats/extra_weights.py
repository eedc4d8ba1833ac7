"""Weights that are no part of a model, as the heads of finetunes, beside the files of formats without a place for them.

They are in ``extra_weights.safetensors``, which no other code looks for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from .._commits import stored
from ..errors import InterchangeWarning
from .contract import StoredTensor
from .safetensors_files import open_safetensors, write_safetensors

EXTRA_FILE = "extra_weights.safetensors"


def read_extra(folder: Path) -> dict[str, StoredTensor]:
    """Return the weights of a folder that are no part of the model. Raises ``FileFormatError`` for a damaged file."""
    path = stored(folder, EXTRA_FILE)
    return open_safetensors(path) if os.path.isfile(path) else {}


def write_extra(folder: Path, tensors: Mapping[str, StoredTensor], names: Collection[str], *, reader: str) -> None:
    """Write tensors that are no part of the model; no file where there are none.

    ``reader`` is the code that the format is of, which a warning says doesn't read them.
    """
    extra = {name: tensors[name] for name in sorted(names)}
    if not extra:
        return
    write_safetensors(folder / EXTRA_FILE, extra)
    listed = ", ".join([*extra][:4]) + (f" and {len(extra) - 4} more" if len(extra) > 4 else "")
    warnings.warn(
        f"the model has no place for {listed}: kept in {EXTRA_FILE}, which this toolkit reads again and {reader} "
        "doesn't.",
        InterchangeWarning,
        stacklevel=5,
    )
