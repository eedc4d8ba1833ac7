"""Attention under any mask, for what the contract of attention backends has no rule for: holes and 4-D masks.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, X heads that share a mask or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chameleon_backends import without_autocast


@dataclass(frozen=True, slots=True)
class DenseMask:
    """A mask in full, and the queries that see nothing."""

    mask_BXTS: Tensor
    """bool, True where a query sees a key, or a number that is added to the score."""
    empty_BXT1: Tensor
    """bool, True for a query that sees no key, whose output is zeros."""

    @classmethod
    def of(cls, given_BXTS: Tensor, dtype: torch.dtype) -> DenseMask:
        """Return a mask; numbers are cast to ``dtype``. No value is read back from the device."""
        if given_BXTS.dtype == torch.bool:
            empty_BXT1 = ~given_BXTS.any(dim=-1, keepdim=True)
            return cls(given_BXTS | empty_BXT1, empty_BXT1)
        # Whatever is close to the lowest number, infinity too, hides a key.
        hidden_BXTS = given_BXTS <= torch.finfo(given_BXTS.dtype).min / 2
        empty_BXT1 = hidden_BXTS.all(dim=-1, keepdim=True)
        added_BXTS = given_BXTS.clamp(min=torch.finfo(dtype).min).to(dtype)
        return cls(added_BXTS.masked_fill(empty_BXT1, 0.0), empty_BXT1)


class DenseAttention:
    """Attention by torch's ``scaled_dot_product_attention`` under a ``DenseMask``; it can return its weights."""

    def attention_weights(self, query_BTHD: Tensor, key_BSKD: Tensor, prepared: DenseMask, *, scale: float) -> Tensor:
        """Return ``weights_BHTS`` before dropout in float32: they sum to 1, or 0 where a query sees no key."""
        with without_autocast(query_BTHD.device):
            key_BSHD = for_each_head(key_BSKD, query_BTHD.shape[2])
            scores_BHTS = scale * torch.einsum("bthd,bshd->bhts", query_BTHD.float(), key_BSHD.float())
            mask_BXTS = prepared.mask_BXTS
            if mask_BXTS.dtype == torch.bool:
                scores_BHTS = scores_BHTS.masked_fill(~mask_BXTS, torch.finfo(torch.float32).min)
            else:
                scores_BHTS = scores_BHTS + mask_BXTS
            return scores_BHTS.softmax(dim=-1).masked_fill(prepared.empty_BXT1, 0.0)

    def attend(
        self,
        query_BTHD: Tensor,
        key_BSKD: Tensor,
        value_BSKD: Tensor,
        prepared: DenseMask,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """Return ``out_BTHD`` in the query's dtype."""
        out_BHTD = F.scaled_dot_product_attention(
            query_BTHD.transpose(1, 2),
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            attn_mask=prepared.mask_BXTS,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=key_BSKD.shape[2] < query_BTHD.shape[2],
        )
        return out_BHTD.masked_fill(prepared.empty_BXT1, 0.0).transpose(1, 2)


def weighted_values(weights_BHTS: Tensor, value_BSKD: Tensor, *, dropout: float) -> Tensor:
    """Return ``out_BTHD`` in the values' dtype: the sum of the values with these weights."""
    with without_autocast(value_BSKD.device):
        value_BSHD = for_each_head(value_BSKD, weights_BHTS.shape[1]).to(weights_BHTS.dtype)
        dropped_BHTS = F.dropout(weights_BHTS, dropout)
        return torch.einsum("bhts,bshd->bthd", dropped_BHTS, value_BSHD).to(value_BSKD.dtype)


def for_each_head(tensor_BSKD: Tensor, num_heads: int) -> Tensor:
    """Repeat each key/value head for its group of query heads: ``tensor_BSHD``."""
    return tensor_BSKD.repeat_interleave(num_heads // tensor_BSKD.shape[2], dim=2)
