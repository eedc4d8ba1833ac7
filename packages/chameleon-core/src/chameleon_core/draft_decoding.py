"""The decoding strategy ``draft``: a smaller model of the same vocabulary guesses text.

Its guesses are chosen with the noise that the row's own choices have, so that they are often right where ids are
sampled, too (speculative decoding, arXiv 2211.17192, without its correction: a right guess is what would be chosen).

Shapes: T new ids, E hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .errors import ConfigError, GenerationError
from .generation import Guesser, GuessView, RowView, processor_chain
from .generation.choosing import Chooser
from .generation.points import Point
from .generation.rows import start_row
from .model import ChameleonForConditionalGeneration

MAX_COUNT = 64

_loaded: dict[str, ChameleonForConditionalGeneration] = {}
"""The model that was loaded last, by its name, so that a request doesn't load it again."""


class Draft:
    """Guesses up to ``count`` ids of text with a smaller model, 1…64, 4 by default. Pictures are decoded plainly.

    ``model`` is a model with the same vocabulary, or the folder or registered name of one, which is loaded on first use
    in float32 or what its config says, on the CPU. Each row is guessed for alone, so it is for few rows at a time.
    """

    def __init__(self, model: Any, count: int = 4) -> None:
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise ConfigError(
                f"count of the decoding strategy 'draft' must be an integer from 1 to {MAX_COUNT}; got {count!r:.80}."
            )
        if not isinstance(model, str) and not callable(getattr(model, "feed_lanes", None)):
            raise ConfigError(
                "model of the decoding strategy 'draft' must be a ChameleonForConditionalGeneration, or the folder or "
                f"name of one; got {model!r:.80}."
            )
        self.model = _load(model) if isinstance(model, str) else model
        self.count = count

    def start(self, row: RowView, /) -> Guesser | None:
        """Return the guesser of a row's text. Raises ``GenerationError`` where the vocabularies differ."""
        if row.kind != "text":
            return None
        own, asked = self.model.config, row.config
        if asked is None:
            return DraftGuesser(self.model, row, self.count)
        if own.vocab_size != asked.vocab_size:
            raise GenerationError(
                f"the draft has {own.vocab_size} ids and the model {asked.vocab_size}; a draft must have the same "
                "vocabulary."
            )
        both_named = None not in (own.vocabulary_map, asked.vocabulary_map)
        if both_named and own.vocabulary_map != asked.vocabulary_map:
            raise GenerationError(
                "the draft's vocabulary_map gives other names to the ids than the model's; a draft must have the same "
                "vocabulary."
            )
        return DraftGuesser(self.model, row, self.count)


class DraftGuesser:
    """Decodes with the draft after a row's ids, and keeps the draft's keys and values of them."""

    def __init__(self, model: Any, row: RowView, count: int) -> None:
        self.model = model
        self.row = row
        self.count = count
        self._chooser = Chooser(model)
        self._cache = model.new_lane_cache("dynamic")
        self._lane = self._cache.add(len(row.prompt) + count)
        self._fed: list[int] = []
        # The state of the draft's own processors, which are those of the row, after so many ids.
        self._chain = processor_chain(row.options, "text")
        self._state = self._chain.start(row)
        self._length = len(row.prompt)
        # What is chosen of text depends on nothing else of a row.
        options = row.options.replace(modality="text", max_new_tokens=1, min_new_tokens=0, fixed_codes=())
        layout = None if model.config.vocabulary_map is None else model.layout
        self._text = start_row(
            row.index, [0], options, layout=layout, context_length=model.config.context_length, stop_ids=row.stop_ids
        )

    @torch.inference_mode()
    def guess(self, row: GuessView, /) -> Sequence[int]:
        """Return what the draft writes after the row's ids."""
        for token_id in row.ids[self._length :]:
            self._state = self._chain.advance(self._state, token_id)
        self._length = len(row.ids)
        ids, state = list(row.ids), self._state
        room = self.model.config.context_length - len(ids) + 1
        while len(ids) < len(row.ids) + min(self.count, row.count, room):
            chosen = self._choose(ids, state)
            if not isinstance(chosen, int):
                break
            ids.append(chosen)
            state = self._chain.advance(state, chosen)
        return ids[len(row.ids) :]

    def observe(self, row: GuessView, chosen: Sequence[int], accepted: int, /) -> None:
        """Learn nothing: the next guess forgets what the row hasn't taken."""

    def _choose(self, ids: Sequence[int], state: Any) -> object:
        """Return the id that the draft writes after others, or what went wrong."""
        known = 0
        while known < min(len(self._fed), len(ids) - 1) and self._fed[known] == ids[known]:
            known += 1
        self._cache.truncate(self._lane, known)
        hidden_TE = self.model.feed_lanes([(self._lane, ids[known:])], self._cache)
        self._fed = list(ids)
        place = (len(hidden_TE) - 1,)
        point = Point(self._text, place, (1.0,), len(ids), self._chain, state, self.row.seed)
        return self._chooser.choose([point], hidden_TE)[0]


def _load(name: str) -> ChameleonForConditionalGeneration:
    if name not in _loaded:
        model = ChameleonForConditionalGeneration.from_pretrained(name)
        _loaded.clear()
        _loaded[name] = model
    return _loaded[name]
