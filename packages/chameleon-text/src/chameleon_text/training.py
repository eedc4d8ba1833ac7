"""Rows of ids with labels: what a model reads, and which part of it it is trained to write.

Shapes: B rows, T ids of the longest row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from .batch import IGNORE_INDEX
from .codec_table import CodecTable
from .segments import Text
from .templates import Piece

Labels: TypeAlias = Literal["answer", "all"]
"""Which ids are trained on: those of the answers and their ends, or all."""


class TrainingExample(msgspec.Struct, frozen=True):
    """One sequence to train on. ``ChameleonProcessor.pad`` makes a batch of several."""

    input_ids: list[int]
    """The ids of the sequence."""
    labels: list[int]
    """For each id the id itself, or ``IGNORE_INDEX`` (-100) where it isn't trained on."""

    def __repr__(self) -> str:
        trained = sum(label != IGNORE_INDEX for label in self.labels)
        return f"TrainingExample({len(self.input_ids):,} ids, {trained:,} of them trained on)"


class Row(msgspec.Struct, frozen=True):
    """The ids of a rendered conversation."""

    ids: list[int]
    """All ids, what begins and ends the row included."""
    answers: list[bool]
    """For each id, whether it belongs to an answer."""
    around: list[int]
    """For each id, 1 where it was put around the conversation, as ``<s>`` is, and 0 elsewhere."""

    def labels(self, which: Labels, *, placeholder_id: int) -> list[int]:
        """Return a label for each id. Placeholders are never trained on, because no model writes them."""
        return [
            token_id if token_id != placeholder_id and (answer or which == "all") else IGNORE_INDEX
            for token_id, answer in zip(self.ids, self.answers, strict=True)
        ]


def encode_rows(
    rendered: Sequence[Sequence[Piece]],
    codecs: CodecTable,
    *,
    prefix: tuple[int, ...] = (),
    suffix: tuple[int, ...] = (),
) -> list[Row]:
    """Encode each row of pieces; the segments of all rows go through their codecs together.

    A row that already begins with the ids of ``prefix``, because its prompt was allowed to spell them, gets no second
    one.
    """
    rows = [_joined(pieces) for pieces in rendered]
    ids_of_pieces = iter(codecs.encode([piece.segment for pieces in rows for piece in pieces]))
    return [_row(pieces, ids_of_pieces, prefix, suffix) for pieces in rows]


def _row(
    pieces: Sequence[Piece], ids_of_pieces: Iterator[list[int]], prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> Row:
    ids: list[int] = []
    answers: list[bool] = []
    for piece in pieces:
        piece_ids = next(ids_of_pieces)
        ids += piece_ids
        answers += [piece.answer] * len(piece_ids)
    if tuple(ids[: len(prefix)]) == prefix:
        prefix = ()
    return Row(
        [*prefix, *ids, *suffix],
        [False] * len(prefix) + answers + [False] * len(suffix),
        [1] * len(prefix) + [0] * len(ids) + [1] * len(suffix),
    )


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Join adjacent texts, so that their ids don't depend on how the caller cut them."""
    result: list[Piece] = []
    # A key for each run of texts of one kind; every other piece is a run of its own.
    runs = itertools.groupby(
        enumerate(pieces), lambda each: each[1].answer if isinstance(each[1].segment, Text) else (each[0],)
    )
    for _, run in runs:
        piece, *more = (piece for _, piece in run)
        if more:
            text = "".join(each.segment.text for each in (piece, *more) if isinstance(each.segment, Text))
            piece = Piece(Text(text), piece.answer)
        result.append(piece)
    return result
