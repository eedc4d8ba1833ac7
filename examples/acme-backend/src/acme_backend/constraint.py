"""Constrained decoding: new text that matches a regular expression from its first id to its last.

Shapes: R rows, A ids that may be chosen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import regex
import torch
from torch import Tensor

from chameleon_core import ConfigError, TokenLayout
from chameleon_core.generation import FORBIDDEN, RowView, TextDecoder


class Pieces:
    """The text of each id, as a tree by its characters: where one can't follow, nothing that begins with it can."""

    def __init__(self, tokenizer: TextDecoder, layout: TokenLayout) -> None:
        self.size = layout.vocab_size
        self.text_of: dict[int, str] = {}
        self.ids: list[int] = []
        self.children: dict[str, Pieces] = {}
        for token_id in layout.text_allowed_V.nonzero()[:, 0].tolist():
            text = tokenizer.decode([token_id])
            self.text_of[token_id] = text
            # A part of a character, which several ids write together, can't be matched.
            if text and "\N{REPLACEMENT CHARACTER}" not in text:
                self._add(text, token_id)

    def _add(self, text: str, token_id: int) -> None:
        node = self
        for character in text:
            node = node.children.setdefault(character, _empty())
        node.ids.append(token_id)


def _empty() -> Pieces:
    node = Pieces.__new__(Pieces)
    node.ids, node.children = [], {}
    return node


class Written(NamedTuple):
    """The state of a row: the new text, what ids write, and which end the row."""

    text: str
    pieces: Pieces
    stop_ids: frozenset[int]


class RegexConstraint:
    """The contract of ``chameleon_core.generation.LogitsProcessor``: ids after which the text can still match.

    The row may end, and must, where it matches and nothing can follow. Text before the end of the prompt doesn't count.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self.pattern = regex.compile(pattern)
        except (regex.error, TypeError) as error:
            raise ConfigError(f"pattern of acme-regex isn't a regular expression: {error}; got {pattern!r}.") from error
        self._allowed = lru_cache(maxsize=256)(self._find_allowed)

    def start(self, row: RowView, /) -> Written:
        """Return the state of a row without new text."""
        tokenizer: Any = row.tokenizer
        assert tokenizer is not None  # as unsupported() says
        assert row.layout is not None
        return Written("", _pieces(tokenizer, row.layout), row.stop_ids)

    def advance(self, state: Written, token_id: int, /) -> Written:
        """Return the state after one more id. Pictures and specials write no text."""
        return state._replace(text=state.text + state.pieces.text_of.get(token_id, ""))

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Written], /) -> Tensor:
        """Return the logits with everything else forbidden."""
        allowed_RV = torch.stack([self._allowed(state) for state in states]).to(ids_A.device)
        return logits_RA.masked_fill(~allowed_RV[:, ids_A], FORBIDDEN)

    def _find_allowed(self, state: Written) -> Tensor:
        """Return which ids may come next, bool [V]."""
        allowed_V = torch.zeros(state.pieces.size, dtype=torch.bool)
        allowed_V[list(self._following(state.text, state.pieces))] = True
        if self.pattern.fullmatch(state.text):
            allowed_V[list(state.stop_ids)] = True
        return allowed_V

    def _following(self, text: str, pieces: Pieces) -> Iterator[int]:
        """Yield the ids after whose text the whole can still match."""
        yield from pieces.ids
        for character, longer in pieces.children.items():
            if self.pattern.fullmatch(text + character, partial=True):
                yield from self._following(text + character, longer)


@lru_cache(maxsize=4)
def _pieces(tokenizer: Any, layout: TokenLayout) -> Pieces:
    """Return the tree of a vocabulary, which is made once."""
    return Pieces(tokenizer, layout)
