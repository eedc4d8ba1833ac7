"""Attention by torch's ``scaled_dot_product_attention``, which picks its kernel by device, dtype and mask.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, G = H / K, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..attention import AttentionSpec
from ..masks import visible_keys


@dataclass(frozen=True, slots=True)
class SDPAPlan:
    """How to call the kernel in this forward pass."""

    is_causal: bool
    mask_B1TS: torch.Tensor | None
    """bool, True where the query sees the key. Empty queries see all keys here."""
    empty_BT11: torch.Tensor | None
    """bool, True for a query that sees no key, or None if there can't be one."""


class SDPAAttention:
    """The attention contract over torch's kernels, with no mask where the kernel needs none."""

    def plan(self, spec: AttentionSpec) -> SDPAPlan:
        """At most one boolean mask, which broadcasts over heads (and rows, if they are alike)."""
        if not _needs_mask(spec):
            return SDPAPlan(is_causal=spec.causal and spec.query_length > 1, mask_B1TS=None, empty_BT11=None)
        visible_BTS = visible_keys(spec)
        if not (spec.has_padding or spec.query_length > spec.key_length):
            return SDPAPlan(is_causal=False, mask_B1TS=visible_BTS[:, None], empty_BT11=None)
        # Kernels differ in what they give for a query that sees nothing, and a NaN would also enter the gradients.
        # So let it see everything, and put zeros in the place of its answer.
        empty_BT1 = ~visible_BTS.any(dim=-1, keepdim=True)
        return SDPAPlan(is_causal=False, mask_B1TS=(visible_BTS | empty_BT1)[:, None], empty_BT11=empty_BT1[..., None])

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: SDPAPlan,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """``out_BTHD`` in the query's dtype."""
        B, T, H, D = query_BTHD.shape
        K = key_BSKD.shape[2]
        # The heads that share a key/value head are rows of one product when each has one query: far faster on a CPU.
        folded = T == 1 and K < H
        query_BHTD = query_BTHD.view(B, K, H // K, D) if folded else query_BTHD.transpose(1, 2)
        out_BHTD = F.scaled_dot_product_attention(
            query_BHTD,
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            attn_mask=prepared.mask_B1TS,
            dropout_p=dropout,
            is_causal=prepared.is_causal,
            scale=scale,
            enable_gqa=K < H and not folded,
        )
        out_BTHD = out_BHTD.reshape(B, T, H, D) if folded else out_BHTD.transpose(1, 2)
        if prepared.empty_BT11 is None:
            return out_BTHD
        return out_BTHD.masked_fill(prepared.empty_BT11, 0.0)


def _needs_mask(spec: AttentionSpec) -> bool:
    """Whether a rule hides keys that the kernel's ``is_causal`` doesn't hide."""
    if spec.has_padding or spec.document_ids_BS is not None:
        return True
    if spec.sliding_window is not None and spec.sliding_window < max(spec.key_length, spec.query_length):
        return True
    # is_causal aligns the first query with the first key, the contract the last with the last: the same for T = S only.
    # One query, the last, sees every key.
    return spec.causal and spec.query_length not in (1, spec.key_length)
