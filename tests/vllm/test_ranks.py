"""On each rank of tensor parallelism the qk-norm has the parameters of the heads that vLLM's own projections have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

QUERY_HEADS, HEAD_DIM, HIDDEN = 16, 4, 8
RATIOS = [(ranks, heads) for ranks in (1, 2, 4, 8, 16) for heads in (1, 2, 4, 8, 16)]


def numbered(heads: int, width: int) -> Tensor:
    """Return rows that say which head they belong to."""
    return torch.arange(heads).float().repeat_interleave(HEAD_DIM)[:, None].expand(-1, width).contiguous()


@pytest.mark.parametrize(("ranks", "key_value_heads"), RATIOS)
def test_the_qk_norm_has_the_heads_of_the_projections(
    ranks: int, key_value_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.layers import linear

    from chameleon_vllm import model

    for rank in range(ranks):
        group = SimpleNamespace(rank_in_group=rank, world_size=ranks)
        monkeypatch.setattr(parallel_state, "_TP", group)
        with set_current_vllm_config(VllmConfig()):
            projection = linear.QKVParallelLinear(
                HIDDEN, HEAD_DIM, QUERY_HEADS, key_value_heads, bias=False, params_dtype=torch.float32
            )
        for shard, heads in (("q", QUERY_HEADS), ("k", key_value_heads), ("v", key_value_heads)):
            projection.weight_loader(projection.weight, numbered(heads, HIDDEN), shard)
        local = QUERY_HEADS // ranks
        query_H, key_H, _ = projection.weight[::HEAD_DIM, 0].split([local, *[max(key_value_heads // ranks, 1)] * 2])
        for heads, replicated, held_H in ((QUERY_HEADS, False, query_H), (key_value_heads, True, key_H)):
            norm = model.HeadNorm(heads, HEAD_DIM, replicated=replicated)
            norm.weight.weight_loader(norm.weight, torch.arange(heads).float()[:, None].expand(-1, HEAD_DIM))
            assert norm.weight[:, 0].tolist() == held_H.tolist()
