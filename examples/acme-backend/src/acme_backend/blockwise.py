"""Attention over one block of keys at a time, with a softmax that each block corrects.

Shapes: B batch, T query length, S key length, J keys of a block, H heads, K key/value heads, U = H / K,
D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chameleon_backends import AttentionSpec, UnsupportedAttentionError, visible_keys, without_autocast

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
        with without_autocast(query_BTHD.device):  # the sums are in float32, whoever calls
            return self._sums(query_BTHD, key_BSKD, value_BSKD, prepared, scale)

    def _sums(self, query_BTHD: Tensor, key_BSKD: Tensor, value_BSKD: Tensor, prepared: Tensor, scale: float) -> Tensor:
        B, T, H, _ = query_BTHD.shape
        S, K = key_BSKD.shape[1:3]
        dtype = torch.promote_types(query_BTHD.dtype, torch.float32)
        query_BTKUD = scale * torch.unflatten(query_BTHD.to(dtype), 2, (K, H // K))
        # Of the keys so far: the highest score, the sum of the weights, and the weighted sum of the values. Weights are
        # relative to the highest score, so that none overflows.
        lowest = torch.finfo(dtype).min
        highest_BTKU1 = query_BTKUD.new_full((B, T, K, H // K, 1), lowest)
        sum_BTKU1 = torch.zeros_like(highest_BTKU1)
        out_BTKUD = torch.zeros_like(query_BTKUD)
        for start in range(0, S, BLOCK):
            block = slice(start, start + BLOCK)
            hidden_BT11J = ~prepared[:, :, None, None, block]
            scores_BTKUJ = torch.einsum("btkud,bjkd->btkuj", query_BTKUD, key_BSKD[:, block].to(dtype))
            scores_BTKUJ = scores_BTKUJ.masked_fill(hidden_BT11J, lowest)
            before_BTKU1, highest_BTKU1 = highest_BTKU1, _higher(highest_BTKU1, scores_BTKUJ)
            weights_BTKUJ = (scores_BTKUJ - highest_BTKU1).exp().masked_fill(hidden_BT11J, 0.0)
            correction_BTKU1 = (before_BTKU1 - highest_BTKU1).exp()
            sum_BTKU1 = correction_BTKU1 * sum_BTKU1 + weights_BTKUJ.sum(dim=-1, keepdim=True)
            values_BTKUD = torch.einsum("btkuj,bjkd->btkud", weights_BTKUJ, value_BSKD[:, block].to(dtype))
            out_BTKUD = correction_BTKU1 * out_BTKUD + values_BTKUD
        # A query that sees no key has a sum of 0; its output is zeros.
        out_BTKUD = out_BTKUD / sum_BTKU1.masked_fill(sum_BTKU1 == 0, 1.0)
        return out_BTKUD.flatten(2, 3).to(query_BTHD.dtype)


def _higher(highest_BTKU1: Tensor, scores_BTKUJ: Tensor) -> Tensor:
    """Return the highest score with that of a block. It cancels out of the result, so it needs no gradient."""
    return torch.maximum(highest_BTKU1, scores_BTKUJ.amax(dim=-1, keepdim=True)).detach()
