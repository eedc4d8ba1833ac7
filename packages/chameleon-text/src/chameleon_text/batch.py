"""Rows of ids as a batch: padded on either side, as lists, arrays or tensors.

Shapes: B rows, T ids of the longest row.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ._model_inputs import ModelInputs, require_torch
from ._moved import moved_names
from .errors import ConfigError

TensorKind: TypeAlias = Literal["np", "pt"]
PaddingSide: TypeAlias = Literal["left", "right"]

IGNORE_INDEX = -100
"""The label of a position that isn't trained on, the default ``ignore_index`` of PyTorch's cross-entropy."""


class ProcessorBatch(ModelInputs):
    """What the processor returns: ``input_ids``, ``attention_mask``, and ``labels`` and ``pixel_values`` if needed."""


def make_batch(
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    labels: Sequence[Sequence[int]] | None,
    padding: bool,
    padding_side: PaddingSide,
    return_tensors: TensorKind | None,
    length: int | None = None,
    multiple: int = 1,
    columns: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> dict[str, Any]:
    """Return ``input_ids``, ``attention_mask`` (1 for a real id, 0 for padding), ``labels`` and other ``columns``.

    Each has shape [B, T] and dtype int64, or is a list of lists where ``return_tensors`` is None. With ``padding`` rows
    are filled up to ``length``, or else the longest, and on to a ``multiple`` of some number.
    """
    choice("padding_side", padding_side, ("left", "right"))
    choice("return_tensors", return_tensors, ("np", "pt", None))
    lengths = [len(row) for row in rows]
    if return_tensors and not padding and len(set(lengths)) > 1:
        raise ConfigError(
            f"rows of {lengths} ids don't form a tensor: pass padding=True, or return_tensors=None for lists."
        )
    if padding:
        length = -(-(max(lengths, default=0) if length is None else length) // multiple) * multiple
        if return_tensors and len({max(each, length) for each in lengths}) > 1:
            raise ConfigError(f"some of the rows of {lengths} ids are longer than {length}: pass truncation=True.")
    else:
        length = None
    padded: dict[str, list[list[int]]] = {
        "input_ids": _padded(rows, pad_id, length, padding_side),
        "attention_mask": _padded([[1] * each for each in lengths], 0, length, padding_side),
    }
    if labels is not None:
        padded["labels"] = _padded(labels, IGNORE_INDEX, length, padding_side)
    for name, column in (columns or {}).items():
        padded[name] = _padded(column, int(name == "special_tokens_mask"), length, padding_side)
    return {name: integers_as(column, return_tensors) for name, column in padded.items()}


def one_row(ids: Any) -> list[int]:
    """Return one row of ids, a list, an array or a tensor, as a list. Raises ``ConfigError`` for anything else."""
    if isinstance(ids, (str, bytes, bytearray, Mapping, Set)):
        raise ConfigError(f"a {type(ids).__name__} is not a row of ids, expected a list of integers or an array.")
    try:
        row = list(ids.tolist() if hasattr(ids, "tolist") else ids)
    except TypeError as error:
        raise ConfigError(f"a {type(ids).__name__} is not a row of ids, expected a list of integers.") from error
    return row if all(type(each) is int for each in row) else [one_id(each) for each in row]


def one_id(value: Any) -> int:
    """Return an id as an int. Raises ``ConfigError`` for anything but an integer, for floats and bools too."""
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # ValueError and RuntimeError are tensors'
            return operator.index(value)
    raise ConfigError(
        f"expected an id, found a {type(value).__name__}. Pass one row of integer ids; decode a batch row by row, or "
        "with batch_decode."
    )


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """Return ``value`` where it is one of the allowed ones. Raises ``ConfigError`` with these and the closest."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # arrays and tensors aren't one truth
        if value in allowed:
            return value
    message = f"{name} is {value!r:.200}, expected {' or '.join(map(repr, allowed))}."
    close = difflib.get_close_matches(str(value)[:200], [each for each in allowed if isinstance(each, str)], n=1)
    raise ConfigError(f"{message} Did you mean {close[0]!r}?" if close else message)


def integers_as(values: Any, kind: TensorKind | None) -> Any:
    """Return integers as they are (None), as an int64 array, or as an int64 tensor."""
    import numpy as np

    if kind is None:
        return values
    if kind == "np":
        return np.array(values, dtype=np.int64)
    torch = require_torch()
    return torch.tensor(values, dtype=torch.int64)


def _padded(rows: Sequence[Sequence[int]], value: int, length: int | None, side: PaddingSide) -> list[list[int]]:
    if length is None:
        return [list(row) for row in rows]
    if side == "left":
        return [[value] * (length - len(row)) + list(row) for row in rows]
    return [list(row) + [value] * (length - len(row)) for row in rows]


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"IGNORED": f"{__name__}:IGNORE_INDEX", "as_tensor": f"{__name__}:integers_as"})
