"""Which keys a query sees, as a boolean mask and as ranges: the contract's rules as code.

Shapes: B batch, T query length, S key length.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .attention import AttentionSpec


def visible_keys(spec: AttentionSpec) -> torch.Tensor:
    """Return ``visible_BTS``: bool on ``spec.device``, True where the query sees the key. B is 1 where rows are alike.

    The rules are those of ``AttentionBackend``. Reads no value back from the device.
    """
    key_S = torch.arange(spec.key_length, device=spec.device)
    rules: list[torch.Tensor] = []
    if spec.query_length > 1 or spec.sliding_window is not None:  # a single query comes after all keys
        query_T = torch.arange(spec.key_length - spec.query_length, spec.key_length, device=spec.device)
        distance_TS = query_T[:, None] - key_S
        if spec.causal:
            rules.append(distance_TS[None] >= 0)
        if spec.sliding_window is not None:
            rules.append(distance_TS[None].abs() < spec.sliding_window)
    if spec.key_start_B is not None:
        rules.append(key_S >= spec.key_start_B[:, None, None])
    if spec.key_end_B is not None:
        rules.append(key_S < spec.key_end_B[:, None, None])
    if spec.document_ids_BS is not None:
        query_documents_BT = spec.document_ids_BS[:, -spec.query_length :]
        rules.append(query_documents_BT[:, :, None] == spec.document_ids_BS[:, None, :])
    if not rules or rules[0].shape[1] < spec.query_length:
        rules.append(key_S.new_ones((1, spec.query_length, spec.key_length), dtype=torch.bool))
    return functools.reduce(torch.Tensor.logical_and, rules)


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """The keys that query t of row b sees: ``first_BT[b, t]`` ≤ s < ``end_BT[b, t]``; the range may be empty."""

    first_BT: torch.Tensor
    """int64: the first key that a query sees."""
    end_BT: torch.Tensor
    """int64: one more than the last key that a query sees."""


def visible_ranges(spec: AttentionSpec) -> KeyRanges:
    """Return each query's range of keys: what ``visible_keys`` returns, since every rule leaves one range.

    The tensors are contiguous, on ``spec.device``. Reads no value back from the device.
    """
    position_T = torch.arange(spec.key_length - spec.query_length, spec.key_length, device=spec.device)
    first_BT = torch.zeros(spec.batch_size, spec.query_length, dtype=torch.int64, device=spec.device)
    end_BT = torch.full_like(first_BT, spec.key_length)
    if spec.causal:
        end_BT = end_BT.minimum(position_T + 1)
    if spec.sliding_window is not None:
        first_BT = first_BT.maximum(position_T - spec.sliding_window + 1)
        end_BT = end_BT.minimum(position_T + spec.sliding_window)
    if spec.key_start_B is not None:
        first_BT = first_BT.maximum(spec.key_start_B[:, None])
    if spec.key_end_B is not None:
        end_BT = end_BT.minimum(spec.key_end_B[:, None])
    if spec.document_ids_BS is not None:
        documents = _document_ranges(spec.document_ids_BS)
        first_BT = first_BT.maximum(documents.first_BT[:, -spec.query_length :])
        end_BT = end_BT.minimum(documents.end_BT[:, -spec.query_length :])
    return KeyRanges(first_BT, end_BT)


def _document_ranges(document_ids_BS: torch.Tensor) -> KeyRanges:
    """Return the first key of each key's document, and one more than its last."""
    S = document_ids_BS.shape[1]
    differs_BS = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    inner_S = torch.arange(1, S, device=document_ids_BS.device)
    begins_BS = F.pad(torch.where(differs_BS, inner_S, 0), (1, 0))
    ends_BS = F.pad(torch.where(differs_BS, inner_S, S), (0, 1), value=S)
    return KeyRanges(begins_BS.cummax(dim=1).values, ends_BS.flip(1).cummin(dim=1).values.flip(1))
