"""What a tokenizer returns: rows of ids, and the place of each token in its text.

Shapes: B rows, T ids of the longest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from .._model_inputs import ModelInputs
from ..batch import integers_as
from ..errors import ConfigError

Span = tuple[int, int]


class TokenizerBatch(ModelInputs):
    """What a tokenizer returns: ``input_ids``, ``attention_mask`` and what else was asked for.

    By a row's number it is the row's ``tokenizers.Encoding``, by a slice the entries of some rows. Methods with a row
    and a position may be called with the position alone, in the first row.
    """

    def __init__(
        self, entries: Mapping[str, Any] | None = None, encodings: Sequence[tokenizers.Encoding] | None = None
    ) -> None:
        super().__init__(entries)
        self._encodings = None if encodings is None else list(encodings)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice):
            return {name: column[key] for name, column in self.data.items()}
        return self._rows()[key]

    @property
    def encodings(self) -> list[tokenizers.Encoding] | None:
        """The rows as the ``tokenizers`` library returned them; None for a batch that wasn't made of texts."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether tokens know their places in the text."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """2 for pairs of texts, 1 for texts, None where it isn't known."""
        return self._encodings[0].n_sequences if self._encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the names of a row's ids."""
        return list(self._rows()[batch_index].tokens)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the number of the word that each token of a row belongs to."""
        return list(self._rows()[batch_index].word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token of a row the text of the pair that it belongs to, 0 or 1."""
        return list(self._rows()[batch_index].sequence_ids)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the position of the token that has a character of the text."""
        row, char = self._place(batch_or_char_index, char_index)
        found: int | None = row.char_to_token(char, sequence_index)
        return found

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> Span | None:
        """Return the characters of the text that a token stands for, the first one and the one after the last."""
        row, token = self._place(batch_or_token_index, token_index)
        found: Span | None = row.token_to_chars(token)
        return found

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the number of the word that a token belongs to."""
        row, token = self._place(batch_or_token_index, token_index)
        found: int | None = row.token_to_word(token)
        return found

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the text of the pair that a token belongs to, 0 or 1."""
        row, token = self._place(batch_or_token_index, token_index)
        found: int | None = row.token_to_sequence(token)
        return found

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Span | None:
        """Return the positions of a word's tokens, the first one and the one after the last."""
        row, word = self._place(batch_or_word_index, word_index)
        found: Span | None = row.word_to_tokens(word, sequence_index)
        return found

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Span | None:
        """Return the characters of a word, the first one and the one after the last."""
        row, word = self._place(batch_or_word_index, word_index)
        found: Span | None = row.word_to_chars(word, sequence_index)
        return found

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the number of the word that has a character of the text."""
        row, char = self._place(batch_or_char_index, char_index)
        found: int | None = row.char_to_word(char, sequence_index)
        return found

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> TokenizerBatch:
        """Make the columns tensors ("pt") or arrays ("np"), in place. Raises ``ConfigError`` for ragged ones."""
        tensor_type = getattr(tensor_type, "value", tensor_type)
        if tensor_type is not None:
            for name, column in self.data.items():
                self.data[name] = tensors_of(name, [column] if prepend_batch_axis else column, tensor_type)
        return self

    def mark_characters(self, column: str, spans: Sequence[Sequence[Span]], *, like: str) -> None:
        """Add a column with 1 for each id that stands for characters in one of its row's spans, in the form of another.

        ``spans`` has the spans of each row.
        """
        marks = [
            [int(any(begin < last and first < end for first, last in of_row)) for begin, end in row.offsets]
            for row, of_row in zip(self._rows(), spans, strict=True)
        ]
        other = self.data[like]
        kind = None if not hasattr(other, "shape") else "pt" if hasattr(other, "layout") else "np"
        one = kind is None and not (other and isinstance(other[0], list))
        self.data[column] = tensors_of(column, marks[0] if one else marks, kind)

    def _rows(self) -> list[tokenizers.Encoding]:
        if self._encodings is None:
            raise ConfigError("this batch wasn't made of texts, so that its tokens have no places. Use its entries.")
        return self._encodings

    def _place(self, first: int, second: int | None) -> tuple[tokenizers.Encoding, int]:
        row, index = (0, first) if second is None else (first, second)
        encoding = self._rows()[row]
        return encoding, index + len(encoding) if index < 0 else index


def tensors_of(name: str, column: Any, kind: Any) -> Any:
    """Return a column of integers as tensors or arrays. Raises ``ConfigError`` where its rows differ in length."""
    if kind is None or hasattr(column, "shape"):
        return column
    lengths = {len(row) for row in column if isinstance(row, (list, tuple))}
    if len(lengths) > 1:
        raise ConfigError(
            f"rows of {name} of {sorted(lengths)} ids don't form a tensor: pass padding=True, or return_tensors=None "
            "for lists."
        )
    return integers_as(column, kind)
