"""Flash attention by torch's own kernel, on a CPU and on CUDA.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..attention import AttentionSpec
from ..errors import UnsupportedAttentionError
from .segments import Segment, has_window, is_uniform, segments, zeros_like_query

CUDA_DTYPES = (torch.float16, torch.bfloat16)
MAX_CUDA_HEAD_DIM = 256
CUDA_HEAD_DIM_MULTIPLE = 8


def why_torch_unsupported(spec: AttentionSpec) -> str | None:
    """Return why torch's flash kernel can't serve the request."""
    if spec.device.type not in ("cpu", "cuda"):
        return f"torch has no flash kernel for the device {spec.device.type!r}"
    if spec.device.type == "cuda" and (spec.dtype not in CUDA_DTYPES or spec.head_dim > MAX_CUDA_HEAD_DIM):
        return (
            f"torch's flash kernel on CUDA reads float16 and bfloat16 of widths up to {MAX_CUDA_HEAD_DIM}, "
            f"not {spec.dtype} of width {spec.head_dim}"
        )
    if spec.dropout and spec.device.type == "cpu":
        return "torch's flash kernel has no dropout on a CPU"
    if has_window(spec) and spec.query_length > 1:
        return "torch's flash kernel has no sliding window"
    return None


@dataclass(frozen=True, slots=True)
class TorchFlashPlan:
    """How to call torch's kernel: once for the whole batch, or once for each piece."""

    pieces: list[Segment] | None
    causal: bool = False
    window: int | None = None
    """How many of the last keys a single query sees. None: all."""


class TorchFlashAttention:
    """The attention contract over torch's flash kernel, which never gets a mask."""

    def plan(self, spec: AttentionSpec) -> TorchFlashPlan:
        """Return the pieces, or None for them where one call serves the batch."""
        reason = why_torch_unsupported(spec)
        if reason is not None:
            raise UnsupportedAttentionError(reason)
        whole = is_uniform(spec) and (not spec.causal or spec.query_length <= spec.key_length)
        if not whole:
            return TorchFlashPlan(segments(spec))
        return TorchFlashPlan(
            None,
            causal=spec.causal and spec.query_length > 1,
            window=spec.sliding_window if has_window(spec) else None,
        )

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: TorchFlashPlan,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return ``out_BTHD`` in the query's dtype."""
        if prepared.pieces is None:
            if prepared.window is not None:
                key_BSKD, value_BSKD = key_BSKD[:, -prepared.window :], value_BSKD[:, -prepared.window :]
            return _kernel(query_BTHD, key_BSKD, value_BSKD, prepared.causal, scale, dropout)
        out_BTHD = zeros_like_query(query_BTHD, key_BSKD, value_BSKD)
        for piece in prepared.pieces:
            rows, queries = slice(piece.row, piece.row + 1), slice(piece.query_start, piece.query_end)
            keys = slice(piece.key_start, piece.key_end)
            out_BTHD[rows, queries] = _kernel(
                query_BTHD[rows, queries], key_BSKD[rows, keys], value_BSKD[rows, keys], piece.causal, scale, dropout
            )
        return out_BTHD

    def __repr__(self) -> str:
        return "TorchFlashAttention()"


def _kernel(
    query_BTHD: torch.Tensor,
    key_BSKD: torch.Tensor,
    value_BSKD: torch.Tensor,
    causal: bool,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """Call torch's kernel; causal is aligned to the last key."""
    missing = key_BSKD.shape[1] - query_BTHD.shape[1] if causal else 0
    if missing:
        # The kernel aligns the first query with the first key. With as many queries as keys, that is the same.
        query_BTHD = F.pad(query_BTHD, (0, 0, 0, 0, missing, 0))
    out_BHTD = _flash(
        query_BTHD.transpose(1, 2), key_BSKD.transpose(1, 2), value_BSKD.transpose(1, 2), causal, scale, dropout
    )
    return out_BHTD.transpose(1, 2)[:, missing:]


def _flash(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    causal: bool,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """Call the operator itself: ``sdpa_kernel``, which chooses it, changes settings that all threads share."""
    if query_BHTD.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_BHTD: torch.Tensor = kernel(query_BHTD, key_BKSD, value_BKSD, dropout, causal, scale=scale)[0]
        return out_BHTD
    width = query_BHTD.shape[-1]
    pad = -width % CUDA_HEAD_DIM_MULTIPLE
    padded = [F.pad(tensor, (0, pad)) if pad else tensor for tensor in (query_BHTD, key_BKSD, value_BKSD)]
    out_BHTD = torch.ops.aten._scaled_dot_product_flash_attention(*padded, dropout, causal, False, scale=scale)[0]
    return out_BHTD[..., :width]
