"""The loop of generation: feed the last ids, choose the next ones, move each row on.

Each row has a lane of the cache for its whole context, and while it writes a guided picture one more for each branch
of the guidance. All lanes are fed one id a step, so that one pass serves every row, whatever it is writing.

Shapes: L lanes, R rows that choose from the same kind of token, T prompt length, E hidden width, V vocabulary,
M ids of text, N codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import GenerationError
from .guidance import guidance_branches
from .head import MOST_ROWS, TurnedRows
from .options import GenerationOptions
from .rows import FinishReason, Row, start_row
from .sampling import FORBIDDEN, RowGenerators, draw, penalize_repetition

if TYPE_CHECKING:
    from ..conditional_generation import ChameleonForConditionalGeneration


# How many steps a cache has room for at first; it doubles from there.
SPARE_SLOTS = 128


class TextDecoder(Protocol):
    """What generation needs of a text tokenizer."""

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of some ids."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step of all rows."""

    ids: tuple[int | None, ...]
    """Each row's new id; None for a row that had ended before."""
    finish_reasons: tuple[FinishReason | None, ...]
    """Why each row has ended, once it has."""


@dataclass(slots=True)
class Lane:
    """One row of the cache: whose it is, the id that it is fed next, and what its logits weigh in a picture."""

    row: Row
    next_id: int
    weight: float = 1.0
    guides: bool = False
    """Whether this is a branch of the guidance, not the row's whole context."""


def generate_ids(
    model: ChameleonForConditionalGeneration,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    options: GenerationOptions,
    *,
    tokenizer: TextDecoder | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[Step]:
    """Generate, a step at a time, until every row has ended or ``should_stop`` says so.

    Prompts and options are checked at once, before the first step is asked for.
    """
    if options.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings need the text of the ids: pass tokenizer=processor.tokenizer.")
    beyond = [token_id for token_id in options.stop_ids if token_id >= model.config.vocab_size]
    if beyond:
        raise GenerationError(f"stop_ids {beyond} aren't in the vocabulary of {model.config.vocab_size} ids.")
    prompts = _prompts(input_ids_BT, attention_mask_BT, model.config.vocab_size)
    layout = None if model.config.vocabulary_map is None else model.layout
    ends = model.config.eos_token_ids if layout is None else (layout.eos_id,)
    rows = [
        start_row(
            index,
            prompt,
            options,
            layout=layout,
            context_length=model.config.context_length,
            stop_ids=frozenset((*ends, *options.stop_ids)),
        )
        for index, prompt in enumerate(prompts)
    ]
    return _Engine(model, rows, options, tokenizer, should_stop or (lambda: False)).run()


class _Engine:
    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        rows: Sequence[Row],
        options: GenerationOptions,
        tokenizer: TextDecoder | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.model = model
        self.rows = rows
        self.options = options
        self.tokenizer = tokenizer
        self.should_stop = should_stop
        self.generators = RowGenerators(options.seed, len(rows))
        self.lanes: list[Lane] = []
        self.cache = model.model.new_cache(0)
        self.layout = rows[0].layout if rows else None
        self.text_ids_M = self._text_ids().to(model.device)
        self.seen_RV = self._seen() if options.repetition_penalty != 1 else None

    @torch.inference_mode()
    def run(self) -> Generator[Step]:
        self._admit([(Lane(row, row.prompt[-1]), row.prompt) for row in self.rows])
        self._guide([row for row in self.rows if row.wants_code])
        while self.lanes and not self.should_stop():
            chosen = self._choose(self._feed())
            for index, token_id in chosen.items():
                self._accept(self.rows[index], token_id)
            for lane in self.lanes:
                lane.next_id = chosen[lane.row.index]
            yield Step(tuple(chosen.get(row.index) for row in self.rows), tuple(row.finish_reason for row in self.rows))
            self._retire()
            self._guide([self.rows[index] for index in chosen if self.rows[index].just_began_image])

    def _admit(self, lanes: Sequence[tuple[Lane, Sequence[int]]]) -> None:
        """Add lanes, with all of their contexts but the last id in the cache; that one is fed with the others'."""
        if not lanes:
            return
        stored = [list(context[:-1]) for _, context in lanes]
        width = max(map(len, stored))
        cache = self.model.model.new_cache(len(lanes), capacity=width + SPARE_SLOTS)
        cache.pad([width - len(ids) for ids in stored])
        if width:
            padded = [[0] * (width - len(ids)) + ids for ids in stored]
            self.model.model(torch.tensor(padded, device=self.model.device), cache=cache)
        self.cache.extend(cache)
        self.lanes.extend(lane for lane, _ in lanes)

    def _guide(self, rows: Sequence[Row]) -> None:
        """Give rows that begin a picture a lane for each branch of the guidance."""
        branches: list[tuple[Lane, Sequence[int]]] = []
        for row in rows:
            assert self.layout is not None
            weights = guidance_branches(row.ids, self.layout, self.options.guidance_text, self.options.guidance_image)
            main = next(lane for lane in self.lanes if lane.row is row)
            main.weight = 1 - sum(weights.values())
            branches += [(Lane(row, context[-1], weight, guides=True), context) for context, weight in weights.items()]
        self._admit(branches)

    def _feed(self) -> Tensor:
        """Feed every lane its next id; the hidden states after it, [L, E]."""
        ids_L1 = torch.tensor([[lane.next_id] for lane in self.lanes], device=self.model.device)
        return self.model.model(ids_L1, cache=self.cache).last_hidden_state[:, 0]

    def _choose(self, hidden_LE: Tensor) -> dict[int, int]:
        """The next id of each row that runs, by its index."""
        chosen: dict[int, int] = {}
        text: list[int] = []
        pictures: list[int] = []
        for place, lane in enumerate(self.lanes):
            forced_id = lane.row.forced_id
            if forced_id is not None:
                chosen[lane.row.index] = forced_id
            elif lane.row.wants_code:
                pictures.append(place)
            else:
                text.append(place)
        if text:
            chosen |= self._choose_text(_at(text, hidden_LE), [self.lanes[place].row for place in text])
        if pictures:
            chosen |= self._choose_codes(_at(pictures, hidden_LE), [self.lanes[place] for place in pictures])
        return chosen

    def _choose_text(self, hidden_RE: Tensor, rows: Sequence[Row]) -> dict[int, int]:
        """The next id of each row, from the output layer's rows that text may use."""
        indices = [row.index for row in rows]
        logits_RM = self._text_logits(hidden_RE)
        if self.seen_RV is not None:
            seen_RM = self.seen_RV[indices][:, self.text_ids_M]
            logits_RM = penalize_repetition(logits_RM, seen_RM, self.options.repetition_penalty)
        closed = [] if self.layout is None else [place for place, row in enumerate(rows) if not row.may_begin_image]
        if closed:
            logits_RM[closed, self.begin_image_choice] = FORBIDDEN
        choices = draw(logits_RM, self.options.text_sampling, self.generators, indices)
        return {index: int(self.text_ids_M[choice]) for index, choice in zip(indices, choices, strict=True)}

    def _text_logits(self, hidden_RE: Tensor) -> Tensor:
        if len(hidden_RE) <= MOST_ROWS and self.turned_head is not None:
            return self.turned_head.logits(hidden_RE)
        return self.model.lm_head(hidden_RE)[:, self.text_ids_M].float()

    @cached_property
    def turned_head(self) -> TurnedRows | None:
        """Those rows in the layout that is fastest for a few hidden states; None where that is their own."""
        return self.model.turned_head.rows(self.model.lm_head, self.text_ids_M)

    def _choose_codes(self, hidden_LE: Tensor, lanes: Sequence[Lane]) -> dict[int, int]:
        """The next picture id of each row, from the picture's rows of the output layer alone."""
        assert self.layout is not None
        logits_LN = F.linear(hidden_LE, self.picture_weight_NE).float()
        indices = list(dict.fromkeys(lane.row.index for lane in lanes))
        if any(lane.weight != 1 for lane in lanes):
            weights_L1 = torch.tensor([[lane.weight] for lane in lanes], device=logits_LN.device)
            row_L = torch.tensor([indices.index(lane.row.index) for lane in lanes], device=logits_LN.device)
            logits_RN = logits_LN.new_zeros(len(indices), logits_LN.shape[1])
            logits_LN = logits_RN.index_add_(0, row_L, logits_LN * weights_L1)
        codes = draw(logits_LN, self.options.image_sampling, self.generators, indices)
        return {index: int(self.layout.code_to_id_N[code]) for index, code in zip(indices, codes, strict=True)}

    @cached_property
    def picture_weight_NE(self) -> Tensor:
        """The output layer's rows for codes 0 … N − 1, taken when the first picture begins."""
        assert self.layout is not None
        return self.model.lm_head.weight[self.layout.code_to_id_N.to(self.model.device)]

    def _accept(self, row: Row, token_id: int) -> None:
        row.accept(token_id)
        if self.seen_RV is not None:
            self.seen_RV[row.index, token_id] = True
        if row.finish_reason != "stop" and self._has_stop_string(row):
            row.finish_reason = "stop"

    def _has_stop_string(self, row: Row) -> bool:
        """Whether the newest id completes a stop string in the text since the last picture."""
        if not self.options.stop_strings or row.codes_left is not None:
            return False
        assert self.tokenizer is not None
        # Each id is at least one byte of text, so that a stop string that ends here began within as many ids.
        longest = max(len(stop.encode()) for stop in self.options.stop_strings)
        tail = list(itertools.takewhile(self._is_text, reversed(row.new_ids[-longest:])))
        text = self.tokenizer.decode(tail[::-1])
        return any(stop in text for stop in self.options.stop_strings)

    def _is_text(self, token_id: int) -> bool:
        return self.layout is None or bool(self.layout.text_allowed_V[token_id])

    def _retire(self) -> None:
        """Drop the lanes of rows that have ended, and the branches of pictures whose codes are complete."""
        kept = [
            place
            for place, lane in enumerate(self.lanes)
            if lane.row.finish_reason is None and (lane.row.wants_code or not lane.guides)
        ]
        if len(kept) < len(self.lanes):
            self.cache.select(kept)
            self.lanes = [self.lanes[place] for place in kept]

    def _text_ids(self) -> Tensor:
        """The ids that text may hold or that may end it, in ascending order; all where nobody knows what ids mean."""
        if self.layout is None:
            return torch.arange(self.model.config.vocab_size)
        allowed_V = self.layout.text_allowed_V.clone()
        allowed_V[[self.layout.eos_id, self.layout.begin_image_id, *self.options.stop_ids]] = True
        return allowed_V.nonzero()[:, 0]

    @cached_property
    def begin_image_choice(self) -> int:
        """Where begin-image is among ``text_ids_M``."""
        assert self.layout is not None
        return int((self.text_ids_M == self.layout.begin_image_id).nonzero())

    def _seen(self) -> Tensor:
        seen_RV = torch.zeros(len(self.rows), self.model.config.vocab_size, dtype=torch.bool)
        for row in self.rows:
            seen_RV[row.index, list(row.prompt)] = True
        return seen_RV.to(self.model.device)


def _at(places: Sequence[int], hidden_LE: Tensor) -> Tensor:
    """The hidden states of some lanes, without a copy where that is all of them."""
    return hidden_LE if len(places) == len(hidden_LE) else hidden_LE[places]


def _prompts(input_ids_BT: Tensor, attention_mask_BT: Tensor | None, vocab_size: int) -> list[list[int]]:
    """Each row's ids without its padding, on whichever side that is."""
    if input_ids_BT.dim() != 2:
        raise GenerationError(f"input_ids must be [batch, length], got {list(input_ids_BT.shape)}.")
    if attention_mask_BT is None:
        prompts = input_ids_BT.tolist()
    elif attention_mask_BT.shape != input_ids_BT.shape:
        raise GenerationError(
            f"attention_mask must be {list(input_ids_BT.shape)} as input_ids, is {list(attention_mask_BT.shape)}."
        )
    else:
        prompts = [ids[real].tolist() for ids, real in zip(input_ids_BT, attention_mask_BT.bool(), strict=True)]
    for index, prompt in enumerate(prompts):
        beyond = sorted({token_id for token_id in prompt if not 0 <= token_id < vocab_size})
        if beyond:
            raise GenerationError(f"row {index} has ids {beyond} that aren't in the vocabulary of {vocab_size} ids.")
    return prompts
