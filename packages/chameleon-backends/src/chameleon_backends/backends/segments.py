"""Any request as pieces without padding or documents, for kernels that support neither.

Shapes: B batch, T query length, S key length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..attention import AttentionSpec
from ..masks import visible_ranges


@dataclass(frozen=True, slots=True)
class Segment:
    """Some queries of a row and the keys that they see, the last of each at the same position.

    Where it is neither causal nor windowed, the queries may be anywhere: each sees all of the keys.
    """

    row: int
    query_start: int
    query_end: int
    key_start: int
    key_end: int
    causal: bool
    windowed: bool


def is_uniform(spec: AttentionSpec) -> bool:
    """Return whether a kernel can take the batch as it is: no rules but causality and the window."""
    return not spec.has_padding and spec.document_ids_BS is None


def has_window(spec: AttentionSpec) -> bool:
    """Return whether the window hides a key that is otherwise visible."""
    return spec.sliding_window is not None and spec.sliding_window < max(spec.query_length, spec.key_length)


def segments(spec: AttentionSpec) -> list[Segment]:
    """Return the request's pieces. A query is in one at most; those in none see no key.

    Reads the padding and the documents back from the device.
    """
    T, S = spec.query_length, spec.key_length
    if T == 1:  # one range of keys, whatever the rules
        ranges = visible_ranges(spec)
        rows = enumerate(zip(ranges.first_BT[:, 0].tolist(), ranges.end_BT[:, 0].tolist(), strict=True))
        return [Segment(row, 0, 1, first, end, False, False) for row, (first, end) in rows if first < end]
    starts = [0] * spec.batch_size if spec.key_start_B is None else spec.key_start_B.tolist()
    ends = [S] * spec.batch_size if spec.key_end_B is None else spec.key_end_B.tolist()
    documents = [[(0, S)]] * spec.batch_size if spec.document_ids_BS is None else _documents(spec.document_ids_BS)
    pieces: list[Segment] = []
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for first, last in documents[row]:
            # Queries by their position, which is negative for the first ones where there are more queries than keys.
            first_query = S - T if first == 0 and T > S else max(first, S - T)
            pieces += _pieces(spec, row, (first_query, last), (max(first, start), min(last, end)))
    return pieces


def zeros_like_query(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return zeros for the pieces' outputs. Gradients flow through them even without pieces: zeros to all three."""
    return torch.zeros_like(query) + sum(tensor[:0].sum() for tensor in (query, key, value))


def _documents(document_ids_BS: torch.Tensor) -> list[list[tuple[int, int]]]:
    """Return the begin and the end of each document of each row."""
    rows = []
    for ids in document_ids_BS.tolist():
        begins = [0, *(s for s in range(1, len(ids)) if ids[s] != ids[s - 1])]
        rows.append(list(zip(begins, [*begins[1:], len(ids)], strict=True)))
    return rows


def _pieces(spec: AttentionSpec, row: int, queries: tuple[int, int], keys: tuple[int, int]) -> list[Segment]:
    """Return the pieces of one document; ``queries`` and ``keys`` are begin and end as positions in the row."""
    (first, last), (key_start, key_end) = queries, keys
    if key_start >= key_end:
        return []
    offset = spec.key_length - spec.query_length
    windowed = has_window(spec)
    pieces: list[Segment] = []

    def add(begin: int, end: int, start: int, causal: bool, window: bool) -> None:
        if begin < end and start < key_end:
            pieces.append(Segment(row, begin - offset, end - offset, start, key_end, causal, window))

    if not spec.causal and not windowed:
        add(first, last, key_start, False, False)
        return pieces
    begin = max(first, key_start) if spec.causal else first
    add(begin, min(last, key_end), key_start, spec.causal, windowed)
    # Queries after the last key, which are themselves padding on the right.
    begin = max(first, key_end)
    if spec.sliding_window is None or not windowed:
        add(begin, last, key_start, False, False)
    else:
        for position in range(begin, min(last, key_end + spec.sliding_window - 1)):
            add(position, position + 1, max(key_start, position - spec.sliding_window + 1), False, False)
    return pieces
