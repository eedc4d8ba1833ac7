"""Which heads of the qk-norm each rank of tensor parallelism has, which are those of its queries, keys and values.

Query heads are divided among the ranks. Key/value heads are, too, as long as there are enough of them; with more ranks
than key/value heads, each head is on several ranks that follow one another, as vLLM's own projections have it.
"""

from __future__ import annotations

from chameleon_core import ConfigError


def local_heads(total: int, rank: int, ranks: int, *, replicated: bool = False) -> range:
    """Return the heads of a rank, of ``total`` in all; ``replicated`` ones may be on several ranks.

    Raises ``ConfigError`` where the heads can't be divided so.
    """
    if not 0 <= rank < ranks:
        raise ConfigError(f"rank {rank} is none of {ranks} ranks.")
    if total % ranks == 0:
        count = total // ranks
        return range(rank * count, (rank + 1) * count)
    if replicated and ranks % total == 0:
        head = rank // (ranks // total)
        return range(head, head + 1)
    each = "a multiple or a divisor" if replicated else "a multiple"
    raise ConfigError(
        f"{total} heads can't be divided among {ranks} ranks; they must be {each} of the ranks. Use another "
        "tensor_parallel_size."
    )
