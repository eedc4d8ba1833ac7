"""Attention by torch's ``scaled_dot_product_attention``, which picks its kernel by device, dtype and mask.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
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

    is_causal: bool = False
    mask_B1TS: torch.Tensor | None = None
    """bool, True where the query sees the key; for a query that sees no key, True everywhere. Or what is added."""
    empty_BT11: torch.Tensor | None = None
    """bool, True for a query that sees no key; None where there can be none."""
    doubled: bool = False
    """Whether a single query is computed twice, which is faster."""


class SDPAAttention:
    """The attention contract over torch's kernels, with a mask only where the kernel needs one."""

    def plan(self, spec: AttentionSpec) -> SDPAPlan:
        """Return how to call the kernel, with at most one boolean mask, which broadcasts over heads and like rows."""
        # On a CPU the fast matrix product isn't used for a single row times bfloat16 keys, but for two: 2 to 3 times
        # faster at 32 heads of width 128 and 1,056 keys (benchmarks/attention.py).
        doubled = (
            spec.query_length == 1
            and spec.num_heads == spec.num_key_value_heads
            and spec.dtype == torch.bfloat16
            and spec.device.type == "cpu"
        )
        if not _needs_mask(spec):
            return SDPAPlan(is_causal=bool(spec.causal and spec.query_length > 1), doubled=doubled)
        visible_BTS = visible_keys(spec)
        if spec.query_length == 1 and spec.device.type == "cpu":
            return _step_plan(visible_BTS[:, None], spec.dtype, doubled=doubled)
        if not spec.has_padding and spec.query_length <= spec.key_length:
            return SDPAPlan(mask_B1TS=visible_BTS[:, None], doubled=doubled)
        # Kernels differ in what they return for a query that sees no key, and a NaN would also enter the gradients.
        # So it sees every key, and its output is replaced with zeros.
        empty_BT1 = ~visible_BTS.any(dim=-1, keepdim=True)
        mask_B1TS = (visible_BTS | empty_BT1)[:, None]
        return SDPAPlan(mask_B1TS=mask_B1TS, empty_BT11=empty_BT1[..., None], doubled=doubled)

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
        """Return ``out_BTHD`` in the query's dtype."""
        B, T, H, D = query_BTHD.shape
        K = key_BSKD.shape[2]
        if T == 1:
            # The heads of a group are the rows of one product with their shared keys, rather than a product each.
            query_BHTD = query_BTHD.view(B, K, H // K, D)
            if prepared.doubled:
                query_BHTD = query_BHTD.expand(-1, -1, 2, -1)
        else:
            query_BHTD = query_BTHD.transpose(1, 2)
        out_BHTD = F.scaled_dot_product_attention(
            query_BHTD,
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            attn_mask=prepared.mask_B1TS,
            dropout_p=dropout,
            is_causal=prepared.is_causal,
            scale=scale,
            enable_gqa=T > 1 and K < H,
        )
        if prepared.doubled:
            out_BHTD = out_BHTD[:, :, :1]
        out_BTHD = out_BHTD.reshape(B, T, H, D) if T == 1 else out_BHTD.transpose(1, 2)
        if prepared.empty_BT11 is None:
            return out_BTHD
        return out_BTHD.masked_fill(prepared.empty_BT11, 0.0)

    def __repr__(self) -> str:
        return "SDPAAttention()"


def _step_plan(visible_B11S: torch.Tensor, dtype: torch.dtype, *, doubled: bool) -> SDPAPlan:
    """Return the plan of a single query on a CPU, once for all layers, which would each turn bools into numbers."""
    # As few kernels as there can be, since an engine plans each of its steps.
    added_B11S = torch.where(visible_B11S, 0.0, -torch.inf).to(dtype)
    sees_any_B111 = visible_B11S.any(dim=-1, keepdim=True)
    if sees_any_B111.all():
        return SDPAPlan(mask_B1TS=added_B11S, doubled=doubled)
    empty_B111 = ~sees_any_B111
    return SDPAPlan(mask_B1TS=added_B11S.masked_fill_(empty_B111, 0.0), empty_BT11=empty_B111, doubled=doubled)


def _needs_mask(spec: AttentionSpec) -> bool:
    """Return whether a rule hides a key that the kernel's own ``is_causal`` doesn't hide."""
    if spec.has_padding or spec.document_ids_BS is not None:
        return True
    if spec.sliding_window is not None and spec.sliding_window < max(spec.query_length, spec.key_length):
        return True
    # is_causal aligns the first query with the first key, the contract the last with the last: the same at T = S only.
    # A single query, at the last position, sees every key without it.
    return spec.causal and spec.query_length not in (1, spec.key_length)
