"""Attention by torch's flex attention: the rules become a block mask, and blocks of keys that nobody sees are skipped.

On CUDA the kernel is compiled for what it meets. On a CPU torch's uncompiled form runs: right, but it computes every
score, and compiling would take longer than most runs.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, Q blocks of queries,
N blocks of keys.
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
    """Why flex attention can't serve the request."""
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
            f"flex attention on CUDA reads float16, bfloat16 and float32 of widths from {MIN_CUDA_HEAD_DIM}, "
            f"not {spec.dtype} of width {spec.head_dim}"
        )
    return None


class FlexAttention:
    """The attention contract over torch's flex attention."""

    def plan(self, spec: AttentionSpec) -> BlockMask:
        """The block mask, which broadcasts over the heads."""
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
        """``out_BTHD`` in the query's dtype."""
        out_BHTD = _kernel(query_BTHD.device.type)(
            query_BTHD.transpose(1, 2),
            key_BSKD.transpose(1, 2),
            value_BSKD.transpose(1, 2),
            block_mask=prepared,
            scale=scale,
            enable_gqa=key_BSKD.shape[2] < query_BTHD.shape[2],
        )
        return out_BHTD.transpose(1, 2)


def block_mask(spec: AttentionSpec) -> BlockMask:
    """Which blocks of keys a block of queries sees in part, and which as a whole.

    What torch's ``create_block_mask`` finds from a dense mask, here from each query's range of keys.
    """
    ranges = visible_ranges(spec)
    first_BT, end_BT = ranges.first_BT, ranges.end_BT

    def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (first_BT[row, query] <= key) & (key < end_BT[row, query])

    begin_N = torch.arange(0, spec.key_length, BLOCK, device=spec.device)
    first_BT1, end_BT1 = first_BT[..., None], end_BT[..., None]
    some_BTN = (first_BT1 < end_BT1) & (first_BT1 < begin_N + BLOCK) & (end_BT1 > begin_N)
    all_BTN = (first_BT1 <= begin_N) & (end_BT1 >= begin_N + BLOCK)
    some_BQN, whole_BQN = _by_block(some_BTN).any(dim=2), _by_block(all_BTN).all(dim=2)
    return BlockMask.from_kv_blocks(
        *_listed(some_BQN & ~whole_BQN),
        *_listed(whole_BQN),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(spec.query_length, spec.key_length),
    )


def _by_block(tensor_BTN: torch.Tensor) -> torch.Tensor:
    """The queries of each block in a dimension of their own; those that are missing of the last one see nothing."""
    B, T, N = tensor_BTN.shape
    return F.pad(tensor_BTN, (0, 0, 0, -T % BLOCK)).view(B, -1, BLOCK, N)


def _listed(blocks_BQN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many there are for each block of queries, and their indices before all others: what the kernels read."""
    number_B1Q = blocks_BQN.sum(dim=-1, dtype=torch.int32)[:, None]
    index_B1QN = blocks_BQN.int().argsort(dim=-1, descending=True, stable=True).to(torch.int32)[:, None]
    return number_B1Q, index_B1QN


def _kernel(device_type: str) -> Callable[..., torch.Tensor]:
    """Flex attention as it runs on the device."""
    return _compiled() if device_type in COMPILED_ON else _uncompiled


@functools.cache
def _compiled() -> Callable[..., torch.Tensor]:
    """Compiled when it is first called, and again for another number of heads, width, dtype or kind of lengths."""
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
        # That every score is computed is in the docs, which a warning amid a generation is not.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(
            query_BHTD, key_BKSD, value_BKSD, block_mask=block_mask, scale=scale, enable_gqa=enable_gqa
        )
