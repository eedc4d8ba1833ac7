"""Rows of ids as a batch: padded on either side, as lists, arrays or tensors. B rows, T ids each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from .errors import ConfigError, MissingPackageError

TensorKind: TypeAlias = Literal["np", "pt"]
PaddingSide: TypeAlias = Literal["left", "right"]

IGNORED = -100
"""The label of a position that isn't trained on, as PyTorch's cross entropy has it."""


class ProcessorBatch(Mapping[str, Any]):
    """What a model is called with: ``model(**batch)``. Its entries are also attributes (``batch.input_ids``)."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getattr__(self, name: str) -> Any:
        # Not through self._entries alone: while an object is unpickled it isn't there yet.
        entries = self.__dict__.get("_entries", {})
        if name in entries:
            return entries[name]
        raise AttributeError(f"the batch has no {name!r}, only {', '.join(entries) or 'nothing'}")

    def __repr__(self) -> str:
        shapes = (f"{name}: {tuple(getattr(value, 'shape', [len(value)]))}" for name, value in self._entries.items())
        return f"ProcessorBatch({', '.join(shapes)})"

    def to(self, device: Any = None, dtype: Any = None) -> ProcessorBatch:
        """A batch on another device, with its floating tensors (``pixel_values``) in another dtype.

        As in PyTorch, ``to(torch.bfloat16)`` alone names the dtype. Ids and masks stay integers.
        Raises ``ConfigError`` for a batch that isn't of tensors.
        """
        torch = _torch()
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self._entries.items():
            if not isinstance(value, torch.Tensor):
                raise ConfigError(f"{name} is a {type(value).__name__}; only a batch of return_tensors='pt' can move.")
        return ProcessorBatch(
            {
                name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
                for name, tensor in self._entries.items()
            }
        )


def make_batch(
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    labels: Sequence[Sequence[int]] | None,
    padding: bool,
    padding_side: PaddingSide,
    return_tensors: TensorKind | None,
) -> dict[str, Any]:
    """``input_ids``, ``attention_mask`` (1 for what is real) and ``labels``, of shape B T, int64 unless lists."""
    if padding_side not in ("left", "right"):
        raise ConfigError(f"padding_side is {padding_side!r}, expected 'left' or 'right'.")
    lengths = [len(row) for row in rows]
    if return_tensors and not padding and len(set(lengths)) > 1:
        raise ConfigError(f"rows of {lengths} ids make no tensor: pass padding=True, or return_tensors=None for lists.")
    length = max(lengths, default=0) if padding else None
    columns: dict[str, list[list[int]]] = {
        "input_ids": _padded(rows, pad_id, length, padding_side),
        "attention_mask": _padded([[1] * each for each in lengths], 0, length, padding_side),
    }
    if labels is not None:
        columns["labels"] = _padded(labels, IGNORED, length, padding_side)
    return {name: as_tensor(column, return_tensors) for name, column in columns.items()}


def as_tensor(values: Any, kind: TensorKind | None) -> Any:
    """Integers as they are (None), as an int64 array, or as an int64 tensor."""
    if kind is None:
        return values
    if kind == "np":
        return np.array(values, dtype=np.int64)
    if kind == "pt":
        torch = _torch()
        return torch.tensor(values, dtype=torch.int64)
    raise ConfigError(f"return_tensors is {kind!r}, expected 'np', 'pt' or None.")


def _padded(rows: Sequence[Sequence[int]], value: int, length: int | None, side: PaddingSide) -> list[list[int]]:
    if length is None:
        return [list(row) for row in rows]
    if side == "left":
        return [[value] * (length - len(row)) + list(row) for row in rows]
    return [list(row) + [value] * (length - len(row)) for row in rows]


def _torch() -> Any:
    # Imported only here: text and ids need no torch.
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("tensors need PyTorch: pip install torch, or return_tensors='np'.") from error
    return torch
