"""Prompts as tensors: their type, their padding, and the ids that are left without it.

Shapes: B batch, T prompt length.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..errors import GenerationError, InputError

ID_DTYPES = (torch.int64, torch.int32)


def check_type(input_ids: object) -> None:
    """Raise ``InputError`` where ids aren't an integer tensor."""
    if not isinstance(input_ids, Tensor):
        raise InputError(
            f"input_ids is a {type(input_ids).__name__}; expected a tensor [batch, length], such as "
            "torch.tensor([[0, 1, 2]])."
        )
    if input_ids.dtype not in ID_DTYPES:
        raise InputError(f"input_ids is {input_ids.dtype}; expected int64. Convert them: input_ids.long().")


def mask_of_padding(input_ids_BT: Tensor, pad_id: int | None, stop_ids: Collection[int]) -> Tensor | None:
    """Return the mask of rows that are padded on a side with ``pad_id``, bool [B, T]; None where no row is.

    As in ``transformers``, nothing is inferred where the padding id also ends a row. An id of padding between others is
    kept as a position.
    """
    if pad_id is None or pad_id in stop_ids or input_ids_BT.dim() != 2 or not input_ids_BT.numel():
        return None
    is_real_BT = input_ids_BT != pad_id
    before_BT = is_real_BT.cummax(dim=1).values
    after_BT = is_real_BT.flip(1).cummax(dim=1).values.flip(1)
    mask_BT = before_BT & after_BT
    return None if bool(mask_BT.all()) else mask_BT


def unpadded(input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> list[list[int]]:
    """Return each row's ids without the padding, on whichever side it is.

    Raises ``GenerationError`` where the shapes don't fit.
    """
    if input_ids_BT.dim() != 2:
        raise GenerationError(f"input_ids must be [batch, length]; got {list(input_ids_BT.shape)}.")
    if attention_mask_BT is None:
        return input_ids_BT.tolist()
    if attention_mask_BT.shape != input_ids_BT.shape:
        raise GenerationError(
            f"attention_mask must have the shape of input_ids, {list(input_ids_BT.shape)}; "
            f"got {list(attention_mask_BT.shape)}."
        )
    return [ids[real].tolist() for ids, real in zip(input_ids_BT, attention_mask_BT.bool(), strict=True)]
