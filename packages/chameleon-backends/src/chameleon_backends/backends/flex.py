"""Attention by torch's flex attention: the rules become a block mask, and blocks without a visible key are skipped.

On CUDA the kernel is compiled for each kind of request. On a CPU torch's uncompiled form runs: correct, but it computes
every score, and compiling would take longer than most runs.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, X blocks of queries,
Y blocks of keys.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ..attention import AttentionSpec
from ..errors import UnsupportedAttentionError
from ..masks import visible_ranges

BLOCK = 128
"""Queries and keys of a block: what torch's kernels are tuned for. A picture of 1,024 codes is 8 blocks long."""
COMPILED_ON = ("cuda",)
CUDA_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_CUDA_HEAD_DIM = 16


def why_flex_unsupported(spec: AttentionSpec) -> str | None:
    """Return why flex attention can't serve the request."""
    if spec.dropout:
        return "torch's flex attention has no dropout"
    if spec.device.type == "cpu":
        if spec.requires_grad:
            return (
                "torch's flex attention has no gradients on a CPU: call it under torch.no_grad(), or choose 'sdpa' here"
            )
        return None
    if spec.device.type != "cuda":
        return f"flex attention runs on a CPU and on CUDA, not on {spec.device.type!r}"
    if importlib.util.find_spec("triton") is None:
        return "flex attention on CUDA is compiled by Triton, which isn't installed: pip install triton"
    if spec.dtype not in CUDA_DTYPES or spec.head_dim < MIN_CUDA_HEAD_DIM:
        return (
            f"flex attention on CUDA reads float16, bfloat16 and float32 of widths ≥ {MIN_CUDA_HEAD_DIM}, "
            f"not {spec.dtype} of width {spec.head_dim}"
        )
    return None


class FlexAttention:
    """The attention contract over torch's flex attention."""

    def plan(self, spec: AttentionSpec) -> BlockMask:
        """Return the block mask, which broadcasts over the heads."""
        reason = why_flex_unsupported(spec)
        if reason is not None:
            raise UnsupportedAttentionError(reason)
        return block_mask(spec)

    def attend(
        self,
        query_BTHD: torch.Tensor,
        key_BSKD: torch.Tensor,
        value_BSKD: torch.Tensor,
        prepared: BlockMask,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return ``out_BTHD`` in the query's dtype."""
        out_BHTD = _kernel(query_BTHD.device.type)(
            query_BTHD.transpose(1, 2),
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            block_mask=prepared,
            scale=scale,
            enable_gqa=key_BSKD.shape[2] < query_BTHD.shape[2],
        )
        return out_BHTD.transpose(1, 2)

    def __repr__(self) -> str:
        return "FlexAttention()"


def block_mask(spec: AttentionSpec) -> BlockMask:
    """Return which blocks of keys a block of queries sees in part, and which in full.

    torch's ``create_block_mask`` finds this from a dense mask; here it follows from each query's range of keys.
    """
    ranges = visible_ranges(spec)
    first_BT, end_BT = ranges.first_BT, ranges.end_BT

    def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (first_BT[row, query] <= key) & (key < end_BT[row, query])

    begin_Y = torch.arange(0, spec.key_length, BLOCK, device=spec.device)
    first_BT1, end_BT1 = first_BT[..., None], end_BT[..., None]
    some_BTY = (first_BT1 < end_BT1) & (first_BT1 < begin_Y + BLOCK) & (end_BT1 > begin_Y)
    all_BTY = (first_BT1 <= begin_Y) & (end_BT1 >= begin_Y + BLOCK)
    some_BXY, full_BXY = _by_block(some_BTY).any(dim=2), _by_block(all_BTY).all(dim=2)
    return BlockMask.from_kv_blocks(
        *_listed(some_BXY & ~full_BXY),
        *_listed(full_BXY),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(spec.query_length, spec.key_length),
    )


def _by_block(tensor_BTY: torch.Tensor) -> torch.Tensor:
    """Split queries into blocks, a dimension of their own; the last block is filled with queries that see no key."""
    B, T, Y = tensor_BTY.shape
    return F.pad(tensor_BTY, (0, 0, 0, -T % BLOCK)).view(B, -1, BLOCK, Y)


def _listed(blocks_BXY: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each block of queries' number of blocks of keys, and their indices before all others, as kernels read."""
    number_B1X = blocks_BXY.sum(dim=-1, dtype=torch.int32)[:, None]
    index_B1XY = blocks_BXY.int().argsort(dim=-1, descending=True, stable=True).to(torch.int32)[:, None]
    return number_B1X, index_B1XY


def _kernel(device_type: str) -> Callable[..., torch.Tensor]:
    """Return flex attention as it runs on the device."""
    return _compiled() if device_type in COMPILED_ON else _uncompiled


@functools.cache
def _compiled() -> Callable[..., torch.Tensor]:
    """Return flex attention, compiled when first called, and again for other heads, widths, dtypes or lengths."""
    return torch.compile(flex_attention)


def _uncompiled(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    *,
    block_mask: BlockMask,
    scale: float,
    enable_gqa: bool,
) -> torch.Tensor:
    with warnings.catch_warnings():
        # The docs say that every score is computed; a warning during generation would only disturb.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(
            query_BHTD, key_BKSD, value_BKSD, block_mask=block_mask, scale=scale, enable_gqa=enable_gqa
        )
