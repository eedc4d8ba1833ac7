"""The heads of the qk-norm on each rank are those of its queries, keys and values, for every ratio of the two."""

from __future__ import annotations

import pytest

from chameleon_core import ConfigError
from chameleon_vllm.head_shards import local_heads

RATIOS = [(ranks, heads) for ranks in (1, 2, 4, 8, 16) for heads in (1, 2, 4, 8, 16, 32, 64)]


@pytest.mark.parametrize(("ranks", "heads"), RATIOS)
def test_every_head_is_on_as_many_ranks_as_any_other(ranks: int, heads: int) -> None:
    found = [list(local_heads(heads, rank, ranks, replicated=True)) for rank in range(ranks)]
    assert len({len(each) for each in found}) == 1
    flat = [head for each in found for head in each]
    assert flat == sorted(flat)
    assert {flat.count(head) for head in range(heads)} == {max(ranks // heads, 1)}


@pytest.mark.parametrize(("ranks", "queries", "keys"), [(r, q, k) for r, k in RATIOS for q in (32, 64) if q >= k])
def test_a_query_head_finds_its_key_head_on_its_rank(ranks: int, queries: int, keys: int) -> None:
    """With grouped heads, query head q attends with key head q // (queries / keys), on its rank by local numbers."""
    for rank in range(ranks):
        own = local_heads(queries, rank, ranks)
        held = local_heads(keys, rank, ranks, replicated=True)
        each = len(own) // len(held)
        for place, head in enumerate(own):
            assert held[place // each] == head // (queries // keys)


@pytest.mark.parametrize(("heads", "ranks", "replicated"), [(6, 4, True), (3, 2, True), (4, 8, False), (6, 4, False)])
def test_heads_that_cant_be_divided_are_refused(heads: int, ranks: int, replicated: bool) -> None:
    with pytest.raises(ConfigError, match="Use another tensor_parallel_size"):
        local_heads(heads, 0, ranks, replicated=replicated)


def test_a_rank_that_there_isnt_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 2 is none of 2 ranks"):
        local_heads(4, 2, 2)
