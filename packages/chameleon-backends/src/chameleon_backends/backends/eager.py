"""Attention written out as its definition, which every other backend is compared with.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn import functional as F

from ..attention import AttentionSpec, without_autocast
from ..masks import visible_keys


class EagerAttention:
    """The attention contract, readable rather than fast. Computes in float32, or in float64 for float64 inputs."""

    def plan(self, spec: AttentionSpec) -> torch.Tensor:
        """Return the dense mask ``visible_BTS``."""
        return visible_keys(spec)

    def attention_weights(
        self, query_BTHD: torch.Tensor, key_BSKD: torch.Tensor, prepared: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        """Return ``weights_BHTS`` before dropout, float32 or better: they sum to 1, or 0 where no key is visible."""
        with without_autocast(query_BTHD.device):
            return self._weights(query_BTHD, key_BSKD, prepared, scale=scale)

    def _weights(
        self, query_BTHD: torch.Tensor, key_BSKD: torch.Tensor, prepared: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        dtype = torch.promote_types(query_BTHD.dtype, torch.float32)
        hidden_B1TS = ~prepared[:, None]
        key_BSHD = _for_each_head(key_BSKD, query_BTHD.shape[2])
        scores_BHTS = scale * torch.einsum("bthd,bshd->bhts", query_BTHD.to(dtype), key_BSHD.to(dtype))
        # The lowest finite number, not -inf, whose softmax over a row without a visible key would be NaN.
        scores_BHTS = scores_BHTS.masked_fill(hidden_B1TS, torch.finfo(dtype).min)
        return scores_BHTS.softmax(dim=-1).masked_fill(hidden_B1TS, 0.0)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: torch.Tensor,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return ``out_BTHD`` in the query's dtype: the weighted sum of the values."""
        with without_autocast(query_BTHD.device):
            weights_BHTS = F.dropout(self._weights(query_BTHD, key_BSKD, prepared, scale=scale), dropout)
            value_BSHD = _for_each_head(value_BSKD, query_BTHD.shape[2]).to(weights_BHTS.dtype)
            return torch.einsum("bhts,bshd->bthd", weights_BHTS, value_BSHD).to(query_BTHD.dtype)

    def weights(
        self, query_BTHD: torch.Tensor, key_BSKD: torch.Tensor, prepared: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        """Do what ``attention_weights`` does; the old name, deprecated."""
        warnings.warn(
            "EagerAttention.weights is attention_weights now; the old name works until the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.attention_weights(query_BTHD, key_BSKD, prepared, scale=scale)

    def __repr__(self) -> str:
        return "EagerAttention()"


def _for_each_head(tensor_BSKD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Repeat each key/value head for its group of query heads: ``tensor_BSHD``."""
    return tensor_BSKD.repeat_interleave(num_heads // tensor_BSKD.shape[2], dim=2)
