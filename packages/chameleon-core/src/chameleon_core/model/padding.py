"""What a pass's attention mask says: padding at the sides of rows, or a mask in full.

Shapes: B batch, T query length, S key length (cached positions and new ones), X heads that share a mask or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError


class CachedRows(Protocol):
    """What is known of the padding of rows that are in a cache."""

    length: int
    starts: tuple[int, ...]
    visible_LS: Tensor | None

    @property
    def batch_size(self) -> int:
        """The number of rows."""
        ...

    def pad(self, starts: Sequence[int]) -> None:
        """Declare how many slots at the left of each row are padding."""
        ...


@dataclass(frozen=True, slots=True)
class Padding:
    """Which keys a row's queries see, beside causality: a range of them, or what a mask says."""

    start_B: Tensor | None = None
    """int64: each row's first real slot. None: 0."""
    end_B: Tensor | None = None
    """int64: the slot after each row's last real one. None: S."""
    visible_BS: Tensor | None = None
    """bool: which slots are real, where they aren't one range, or where a range can't be read back from the device."""
    mask_BXTS: Tensor | None = None
    """The whole mask, bool or added to scores, which says everything."""

    @property
    def is_dense(self) -> bool:
        """Whether backends, which know ranges only, can't apply it."""
        return self.visible_BS is not None or self.mask_BXTS is not None


def read_padding(
    attention_mask: Tensor | None,
    batch_size: int,
    query_length: int,
    cache: CachedRows | None,
    device: torch.device,
) -> Padding:
    """Return what a mask says, and record it in the cache. Raises ``InputError`` where its form is wrong."""
    if cache is not None and cache.batch_size != batch_size:
        raise InputError(f"the cache holds {cache.batch_size} rows; the batch has {batch_size}.")
    key_length = query_length + (0 if cache is None else cache.length)
    start_B = None if cache is None else _tensor(cache.starts, device)
    if attention_mask is None or attention_mask.dim() == 4:
        visible_BS = None
        if cache is not None and cache.visible_LS is not None:
            visible_BS = cache.visible_LS = _extended(cache.visible_LS, query_length)
        if attention_mask is None:
            return Padding(start_B, visible_BS=visible_BS)
        _check_whole(attention_mask, batch_size, query_length, key_length)
        return Padding(start_B, mask_BXTS=attention_mask.to(device))
    if tuple(attention_mask.shape) != (batch_size, key_length):
        raise InputError(
            f"attention_mask must be [{batch_size}, {key_length}] (cached and new positions), or a mask in full "
            f"[{batch_size} or 1, heads or 1, {query_length}, {key_length}]; got {list(attention_mask.shape)}."
        )
    real_BS = attention_mask.bool().to(device)
    if torch.compiler.is_compiling():
        return _unread(real_BS, start_B, cache)
    # argmax finds the first True; a row without one is all padding.
    starts = real_BS.int().argmax(dim=1).masked_fill(~real_BS.any(dim=1), key_length).tolist()
    ends = [start + count for start, count in zip(starts, real_BS.sum(dim=1).tolist(), strict=True)]
    slots_1S = torch.arange(key_length, device=device)[None]
    is_range = torch.equal(
        real_BS,
        (slots_1S >= torch.tensor(starts, device=device)[:, None])
        & (slots_1S < torch.tensor(ends, device=device)[:, None]),
    )
    right_padded = any(end < key_length for end in ends)
    if cache is None:
        if not is_range:
            return Padding(_tensor(starts, device), visible_BS=real_BS)
        return Padding(_tensor(starts, device), torch.tensor(ends, device=device) if right_padded else None)
    # A row that was all padding may start in this pass or later. Positions count from where a row started.
    started = [min(start, cache.length) for start in cache.starts]
    is_left = is_range and not right_padded and [min(start, cache.length) for start in starts] == started
    if is_left or not cache.length:
        cache.pad(starts)
    if is_left and cache.visible_LS is None:
        return Padding(_tensor(starts, device))
    cache.visible_LS = real_BS
    return Padding(_tensor(cache.starts, device), visible_BS=real_BS)


def _unread(real_BS: Tensor, start_B: Tensor | None, cache: CachedRows | None) -> Padding:
    """Return a mask in a graph that is being compiled, where no value can be read."""
    if cache is None:
        return Padding(real_BS.int().argmax(dim=1), visible_BS=real_BS)
    cache.visible_LS = real_BS
    return Padding(start_B, visible_BS=real_BS)


def _tensor(starts: Sequence[int], device: torch.device) -> Tensor | None:
    return torch.tensor(starts, device=device) if any(starts) else None


def _extended(visible_LS: Tensor, count: int) -> Tensor:
    return torch.nn.functional.pad(visible_LS, (0, count), value=True)


def _check_whole(mask_BXTS: Tensor, batch_size: int, query_length: int, key_length: int) -> None:
    rows, _, queries, keys = mask_BXTS.shape
    if rows not in (1, batch_size) or (queries, keys) != (query_length, key_length):
        raise InputError(
            f"attention_mask of four dimensions must be [{batch_size} or 1, heads or 1, {query_length}, {key_length}] "
            f"(batch, heads, new positions, all positions); got {list(mask_BXTS.shape)}."
        )
    if mask_BXTS.dtype != torch.bool and not mask_BXTS.is_floating_point():
        raise InputError(
            f"attention_mask of four dimensions is {mask_BXTS.dtype}; expected bool (True: a query sees the key), or a "
            "floating-point type (added to the scores). Convert it: attention_mask.bool()."
        )
