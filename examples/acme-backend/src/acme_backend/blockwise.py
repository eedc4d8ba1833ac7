"""Attention over one block of keys at a time, with a softmax that each block corrects.

Shapes: B batch, T query length, S key length, J keys of a block, H heads, K key/value heads, G = H / K, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chameleon_backends import AttentionSpec, UnsupportedAttentionError, visible_keys

from .attention_plugin import unsupported

BLOCK = 128


class BlockwiseAttention:
    """The contract of ``chameleon_backends.AttentionBackend``, with T × 128 scores per head in memory, not T × S."""

    def plan(self, spec: AttentionSpec) -> Tensor:
        """Return ``visible_BTS``, all rules of the request as one mask. Called once per forward pass."""
        reason = unsupported(spec)
        if reason is not None:
            raise UnsupportedAttentionError(reason)
        return visible_keys(spec)

    def attend(
        self,
        query_BTHD: Tensor,
        key_BSKD: Tensor,
        value_BSKD: Tensor,
        prepared: Tensor,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """Return ``out_BTHD`` in the query's dtype. Called once per layer."""
        B, T, H, _ = query_BTHD.shape
        S, K = key_BSKD.shape[1:3]
        dtype = torch.promote_types(query_BTHD.dtype, torch.float32)
        query_BTKGD = scale * torch.unflatten(query_BTHD.to(dtype), 2, (K, H // K))
        # Of the keys so far: the highest score, the sum of the weights, and the weighted sum of the values. Weights are
        # relative to the highest score, so that none overflows.
        lowest = torch.finfo(dtype).min
        highest_BTKG1 = query_BTKGD.new_full((B, T, K, H // K, 1), lowest)
        sum_BTKG1 = torch.zeros_like(highest_BTKG1)
        out_BTKGD = torch.zeros_like(query_BTKGD)
        for start in range(0, S, BLOCK):
            block = slice(start, start + BLOCK)
            hidden_BT11J = ~prepared[:, :, None, None, block]
            scores_BTKGJ = torch.einsum("btkgd,bjkd->btkgj", query_BTKGD, key_BSKD[:, block].to(dtype))
            scores_BTKGJ = scores_BTKGJ.masked_fill(hidden_BT11J, lowest)
            before_BTKG1, highest_BTKG1 = highest_BTKG1, _higher(highest_BTKG1, scores_BTKGJ)
            weights_BTKGJ = (scores_BTKGJ - highest_BTKG1).exp().masked_fill(hidden_BT11J, 0.0)
            correction_BTKG1 = (before_BTKG1 - highest_BTKG1).exp()
            sum_BTKG1 = correction_BTKG1 * sum_BTKG1 + weights_BTKGJ.sum(dim=-1, keepdim=True)
            values_BTKGD = torch.einsum("btkgj,bjkd->btkgd", weights_BTKGJ, value_BSKD[:, block].to(dtype))
            out_BTKGD = correction_BTKG1 * out_BTKGD + values_BTKGD
        # A query that sees no key has a sum of 0; its output is zeros.
        out_BTKGD = out_BTKGD / sum_BTKG1.masked_fill(sum_BTKG1 == 0, 1.0)
        return out_BTKGD.flatten(2, 3).to(query_BTHD.dtype)


def _higher(highest_BTKG1: Tensor, scores_BTKGJ: Tensor) -> Tensor:
    """Return the highest score with that of a block. It cancels out of the result, so it needs no gradient."""
    return torch.maximum(highest_BTKG1, scores_BTKGJ.amax(dim=-1, keepdim=True)).detach()
