"""From documents to rows: several documents packed into a row without attention across them, or one in each row.

A document of n ids takes n − 1 positions: every id but the last is an input, and every id but the first a target if the
document's mask says so. No target crosses from one document into the next.

Shapes: B batch, T positions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import ContextLengthError
from ..model.loss import IGNORE_INDEX
from .data import TokenDocument
from .errors import DatasetError
from .options import Rows

Row: TypeAlias = Sequence[TokenDocument]

# What a batch costs besides its positions, in positions: calls, and passes over the gradient of each weight.
BATCH_COST = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to train on; all tensors are int64 [B, T]."""

    input_ids: Tensor
    """The ids of the documents but their last ones; 0 at padding."""
    targets: Tensor
    """The id that follows each position; -100 at masked targets and at padding."""
    position_ids: Tensor | None
    """Positions within each document, from 0; None where each row is one document."""
    document_ids: Tensor | None
    """The index in the row of each position's document; None where each row is one document."""

    @classmethod
    def empty(cls) -> Batch:
        """Return a batch of one position without a target, whose loss and gradients are 0."""
        return cls(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORE_INDEX), None, None)

    @property
    def num_targets(self) -> int:
        """The number of positions that have a target."""
        return int((self.targets != IGNORE_INDEX).sum())

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return Batch(
            self.input_ids.to(device),
            self.targets.to(device),
            None if self.position_ids is None else self.position_ids.to(device),
            None if self.document_ids is None else self.document_ids.to(device),
        )


def collate(documents: Sequence[TokenDocument], sequence_length: int, *, rows: Rows = "auto") -> Batch:
    """Return a batch of documents, in rows of at most ``sequence_length`` positions.

    "auto" pads where at least half of the positions are then real, because rows of one document need no mask, and packs
    otherwise. Raises ``ContextLengthError`` for a document that is too long, ``DatasetError`` for one of fewer than two
    ids.
    """
    _check(documents, sequence_length)
    if rows == "auto":
        lengths = [len(document) - 1 for document in documents]
        rows = "padded" if 2 * sum(lengths) >= len(lengths) * max(lengths) else "packed"
    if rows == "padded":
        return _fill([[document] for document in documents], packed=False)
    return _fill(_share_rows(documents, sequence_length), packed=True)


def collate_batches(documents: Sequence[TokenDocument], sequence_length: int, *, rows: Rows = "auto") -> list[Batch]:
    """Return documents in as many batches of rows of similar lengths as need the least work, longest first.

    A batch is cut in two where that saves more padding than another batch costs. "auto" packs where rows of one
    document, which need no mask, would cost an eighth more. Raises the errors of ``collate``.
    """
    _check(documents, sequence_length)
    padded = _cut([[document] for document in sorted(documents, key=len, reverse=True)])
    if rows == "padded":
        return [_fill(batch, packed=False) for batch in padded.batches]
    packed = _cut(sorted(_share_rows(documents, sequence_length), key=_width, reverse=True))
    if rows == "auto" and 8 * padded.cost <= 9 * packed.cost:
        return [_fill(batch, packed=False) for batch in padded.batches]
    return [_fill(batch, packed=True) for batch in packed.batches]


def _check(documents: Sequence[TokenDocument], sequence_length: int) -> None:
    for document in documents:
        if len(document) - 1 > sequence_length:
            raise ContextLengthError(
                f"document {document.key!r} has {len(document)} ids and a row has room for {sequence_length + 1}. "
                "Split it, or raise sequence_length."
            )
        if len(document) < 2:
            raise DatasetError(
                f"document {document.key!r} has {len(document)} ids; expected at least 2, an input and a target."
            )
    if not documents:
        raise DatasetError("a batch needs at least one document.")


class _Cut(NamedTuple):
    """Rows that were cut into batches."""

    cost: int
    """Positions, those of padding included, and ``BATCH_COST`` for each batch."""
    batches: Sequence[Sequence[Row]]


def _cut(rows: Sequence[Row]) -> _Cut:
    """Cut rows, longest first, into the batches that cost the least."""
    widths = [_width(row) for row in rows]
    # The cheapest cut of the first n rows: its cost, and where its last batch begins.
    cheapest = [(0, 0)]
    for end in range(1, len(rows) + 1):
        cheapest.append(
            min((cheapest[start][0] + BATCH_COST + widths[start] * (end - start), start) for start in range(end))
        )
    batches: list[Sequence[Row]] = []
    end = len(rows)
    while end:
        start = cheapest[end][1]
        batches.insert(0, rows[start:end])
        end = start
    return _Cut(cheapest[-1][0], batches)


def _width(row: Row) -> int:
    """Return the positions of a row that aren't padding."""
    return sum(len(document) - 1 for document in row)


def _share_rows(documents: Sequence[TokenDocument], sequence_length: int) -> list[list[TokenDocument]]:
    """Put each document, longest first, into the first row that has room for it."""
    shared: list[list[TokenDocument]] = []
    room: list[int] = []
    for document in sorted(documents, key=len, reverse=True):
        needed = len(document) - 1
        place = next((index for index, free in enumerate(room) if free >= needed), None)
        if place is None:
            shared.append([])
            room.append(sequence_length)
            place = len(room) - 1
        shared[place].append(document)
        room[place] -= needed
    return shared


def _fill(rows: Sequence[Row], *, packed: bool) -> Batch:
    width = max(_width(row) for row in rows)
    # Padding comes last, where causal attention hides it from every real position; its outputs are never used.
    input_ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
    targets_BT = torch.full_like(input_ids_BT, IGNORE_INDEX)
    position_ids_BT = torch.zeros_like(input_ids_BT)
    # Padding counts as a document of its own.
    document_ids_BT = torch.full_like(input_ids_BT, -1)
    for index, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row):
            ids_T = torch.from_numpy(document.ids.astype("int64"))
            span = slice(start, start + len(document) - 1)
            input_ids_BT[index, span] = ids_T[:-1]
            targets_BT[index, span] = ids_T[1:]
            if document.trained is not None:
                targets_BT[index, span].masked_fill_(~torch.from_numpy(document.trained[1:]), IGNORE_INDEX)
            position_ids_BT[index, span] = torch.arange(len(document) - 1)
            document_ids_BT[index, span] = number
            start = span.stop
    if not packed:
        return Batch(input_ids_BT, targets_BT, None, None)
    return Batch(input_ids_BT, targets_BT, position_ids_BT, document_ids_BT)
