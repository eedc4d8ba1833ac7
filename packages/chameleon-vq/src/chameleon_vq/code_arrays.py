"""Codes as users give them, tensors, arrays or lists, to checked tensors.

Shapes: B pictures, N codes of a picture, n ≤ N first codes of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import CodesError

Codes = Tensor | npt.NDArray[Any] | Sequence[Any]

_INTEGERS = {
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
}  # fmt: skip
_LARGEST_INT = 2**63 - 1


def checked_codes(codes: Codes, *, ndim: int, num_codes: int) -> Tensor:
    """Return codes as int64: [B, N] where ``ndim`` is 2, [n] where it is 1.

    Raises ``CodesError`` for other shapes, for what isn't integers, and for codes beyond ``num_codes - 1``.
    """
    expected = "[B, N]" if ndim == 2 else "[n]"
    tensor = codes if isinstance(codes, Tensor) else _to_tensor(codes, expected)
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CodesError(f"expected integer codes {expected} with dense values, got {_kind(tensor)}.")
    if tensor.ndim != ndim or tensor.dtype not in _INTEGERS:
        raise CodesError(f"expected integer codes {expected}, got {tensor.dtype} {list(tensor.shape)}.")
    tensor = tensor.long()
    if tensor.numel() and (tensor.min() < 0 or tensor.max() >= num_codes):
        raise CodesError(
            f"got codes {int(tensor.min())}…{int(tensor.max())}, expected 0…{num_codes - 1}. The ids of a "
            "vocabulary are not codes; convert them first."
        )
    return tensor


def _kind(tensor: Tensor) -> str:
    return f"a tensor of {'the device meta' if tensor.is_meta else f'layout {tensor.layout}'}"


def _to_tensor(codes: object, expected: str) -> Tensor:
    """Convert an array or nested lists of codes, of any byte order and strides."""
    try:
        array = np.asarray(codes)
    except Exception as error:  # ragged lists, or elements that NumPy can't convert
        raise CodesError(f"expected integer codes {expected}, got lists that make no array: {error}.") from error
    if array.dtype.kind not in "iu" or np.ma.is_masked(codes):
        raise CodesError(
            f"expected integer codes {expected}, got {'masked values' if np.ma.is_masked(codes) else array.dtype} "
            f"{list(array.shape)}."
        )
    if array.dtype.kind == "u" and array.itemsize == 8 and array.size and array.max() > _LARGEST_INT:
        raise CodesError(f"expected integer codes {expected}, got {int(array.max())} among them.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
