"""The loop of generation: run the model on the last ids, sample the next ones, advance each row.

Each row has a lane of the cache for its whole context, and while it writes a guided picture one more for each branch
of the guidance. Every step feeds each lane one id, so that one forward pass serves all rows, whatever they write.

Shapes: B batch, T prompt length, L lanes, R rows of the request, E hidden width, V vocabulary, A ids that text may
take, Z entries of the codebook.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import GenerationError
from .decoder import CacheT, Decoder, TextDecoder
from .finite import check_logits
from .guidance import guidance_branches
from .options import GenerationOptions
from .repacked_head import MAX_ROWS, RepackedRows, reads_weight_alone
from .rows import FinishReason, Row, start_row
from .sampling import FORBIDDEN, RowGenerators, penalize_repetition, sample

# How many steps a new cache has room for; it doubles when that is not enough.
SPARE_SLOTS = 128


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of generation gave each row."""

    ids: tuple[int | None, ...]
    """The new id of each row; None for a row that ended in an earlier step."""
    finish_reasons: tuple[FinishReason | None, ...]
    """Why each row ended; None while it runs."""


@dataclass(slots=True)
class Lane:
    """One row of the cache."""

    row: Row
    """The row of the request that it belongs to."""
    next_id: int
    """The id that it is fed next."""
    weight: float = 1.0
    """The weight of its logits in the guided sum."""
    is_branch: bool = False
    """Whether it is a branch of the guidance instead of the row's whole context."""


def generate_ids(
    model: Decoder[CacheT],
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    options: GenerationOptions,
    *,
    tokenizer: TextDecoder | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[Step]:
    """Generate a step at a time until every row has ended or ``should_stop()`` is true.

    ``input_ids_BT`` int64 [B, T] are the prompts, padded on either side where ``attention_mask_BT`` [B, T] is 0.
    ``tokenizer`` is needed for ``stop_strings``. Prompts and options are checked eagerly, before the first step is
    requested. Raises ``GenerationError`` where they are invalid, ``ContextLengthError`` where the context is too short.
    """
    if options.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings are searched in the decoded text: pass tokenizer=processor.tokenizer.")
    beyond = [token_id for token_id in options.stop_ids if token_id >= model.config.vocab_size]
    if beyond:
        raise GenerationError(
            f"stop_ids {beyond} are outside the vocabulary; ids must be below {model.config.vocab_size}."
        )
    prompts = _prompts(input_ids_BT, attention_mask_BT, model.config.vocab_size)
    layout = None if model.config.vocabulary_map is None else model.layout
    ends = set(model.config.eos_token_ids)
    if layout is not None and layout.eos_id not in ends:
        # The vocabulary's own names decide; the ids of such a config are the defaults of another vocabulary.
        ends = {layout.eos_id}
    rows = [
        start_row(
            index,
            prompt,
            options,
            layout=layout,
            context_length=model.config.context_length,
            stop_ids=frozenset(ends.union(options.stop_ids)),
        )
        for index, prompt in enumerate(prompts)
    ]
    return _Engine(model, rows, options, tokenizer, should_stop or (lambda: False)).run()


class _Engine(Generic[CacheT]):
    def __init__(
        self,
        model: Decoder[CacheT],
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
        self.cache = model.new_cache(0, capacity=SPARE_SLOTS)
        self.layout = rows[0].layout if rows else None
        self.text_ids_A = self._text_ids().to(model.device)
        self.seen_RV = self._seen() if options.repetition_penalty != 1 else None

    @torch.inference_mode()
    def run(self) -> Generator[Step]:
        self._add_lanes([(Lane(row, row.prompt[-1]), row.prompt) for row in self.rows])
        self._add_branches([row for row in self.rows if row.wants_code])
        while self.lanes and not self.should_stop():
            chosen = self._sample(self._forward())
            for index, token_id in chosen.items():
                self._accept(self.rows[index], token_id)
            for lane in self.lanes:
                lane.next_id = chosen[lane.row.index]
            yield Step(tuple(chosen.get(row.index) for row in self.rows), tuple(row.finish_reason for row in self.rows))
            self._drop_lanes()
            self._add_branches([self.rows[index] for index in chosen if self.rows[index].just_began_image])

    def _add_lanes(self, lanes: Sequence[tuple[Lane, Sequence[int]]]) -> None:
        """Add lanes and store their contexts in the cache, but for the last ids, which the next step feeds."""
        if not lanes:
            return
        stored = [list(context[:-1]) for _, context in lanes]
        width = max(map(len, stored))
        cache = self.model.new_cache(len(lanes), capacity=width + SPARE_SLOTS)
        cache.pad([width - len(ids) for ids in stored])
        if width:
            padded = [[0] * (width - len(ids)) + ids for ids in stored]
            self.model.forward_cached(torch.tensor(padded, device=self.model.device), cache)
        self.cache.extend(cache)
        self.lanes.extend(lane for lane, _ in lanes)

    def _add_branches(self, rows: Sequence[Row]) -> None:
        """Add a lane for each branch of the guidance to rows that begin a picture."""
        branches: list[tuple[Lane, Sequence[int]]] = []
        for row in rows:
            assert self.layout is not None
            weights = guidance_branches(row.ids, self.layout, self.options.guidance_text, self.options.guidance_image)
            main = next(lane for lane in self.lanes if lane.row is row)
            main.weight = 1 - sum(weights.values())
            for context, weight in weights.items():
                branches.append((Lane(row, context[-1], weight, is_branch=True), context))
        self._add_lanes(branches)

    def _forward(self) -> Tensor:
        """Feed every lane its next id and return the hidden states after it, [L, E]."""
        ids_L1 = torch.tensor([[lane.next_id] for lane in self.lanes], device=self.model.device)
        return self.model.forward_cached(ids_L1, self.cache)[:, 0]

    def _sample(self, hidden_LE: Tensor) -> dict[int, int]:
        """Return the next id of each running row, by the row's index."""
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
            chosen |= self._sample_text(_at(text, hidden_LE), [self.lanes[place].row for place in text])
        if pictures:
            chosen |= self._sample_codes(_at(pictures, hidden_LE), [self.lanes[place] for place in pictures])
        return chosen

    def _sample_text(self, hidden_RE: Tensor, rows: Sequence[Row]) -> dict[int, int]:
        """Return the next id of each row, from the logits of the ids that text may take."""
        indices = [row.index for row in rows]
        logits_RA = self._text_logits(hidden_RE)
        check_logits(logits_RA, rows, self.model)
        if self.seen_RV is not None:
            seen_RA = self.seen_RV[indices][:, self.text_ids_A]
            logits_RA = penalize_repetition(logits_RA, seen_RA, self.options.repetition_penalty)
        closed = [] if self.layout is None else [place for place, row in enumerate(rows) if not row.may_begin_image]
        if closed:
            logits_RA[closed, self.begin_image_index] = FORBIDDEN
        choices = sample(logits_RA, self.options.text_sampling, self.generators, indices)
        return {index: int(self.text_ids_A[choice]) for index, choice in zip(indices, choices, strict=True)}

    def _text_logits(self, hidden_RE: Tensor) -> Tensor:
        if len(hidden_RE) <= MAX_ROWS and self.repacked_rows is not None:
            return self.repacked_rows.logits(hidden_RE)
        return self.model.lm_head(hidden_RE)[:, self.text_ids_A].float()

    @cached_property
    def repacked_rows(self) -> RepackedRows | None:
        """The output layer's rows for text, repacked for a few hidden states; None where that isn't faster."""
        return self.model.repacked_head.rows(self.model.lm_head, self.text_ids_A)

    def _sample_codes(self, hidden_LE: Tensor, lanes: Sequence[Lane]) -> dict[int, int]:
        """Return the next picture id of each row, from the picture rows of the output layer alone."""
        assert self.layout is not None
        logits_LZ = self._code_logits(hidden_LE)
        check_logits(logits_LZ, [lane.row for lane in lanes], self.model)
        indices = list(dict.fromkeys(lane.row.index for lane in lanes))
        if any(lane.weight != 1 for lane in lanes):
            weights_L1 = torch.tensor([[lane.weight] for lane in lanes], device=logits_LZ.device)
            row_L = torch.tensor([indices.index(lane.row.index) for lane in lanes], device=logits_LZ.device)
            logits_RZ = logits_LZ.new_zeros(len(indices), logits_LZ.shape[1])
            logits_LZ = logits_RZ.index_add_(0, row_L, logits_LZ * weights_L1)
            rows = [self.rows[index] for index in indices]
            check_logits(logits_LZ, rows, self.model, option="guidance_text or guidance_image")
        codes = sample(logits_LZ, self.options.image_sampling, self.generators, indices)
        return {index: int(self.layout.code_to_id_Z[code]) for index, code in zip(indices, codes, strict=True)}

    def _code_logits(self, hidden_LE: Tensor) -> Tensor:
        if self.picture_weight_ZE is not None:
            return F.linear(hidden_LE, self.picture_weight_ZE).float()
        return self.model.lm_head(hidden_LE)[:, self.picture_ids_Z].float()

    @cached_property
    def picture_ids_Z(self) -> Tensor:
        """The ids of codes 0 … Z − 1, on the model's device."""
        assert self.layout is not None
        return self.layout.code_to_id_Z.to(self.model.device)

    @cached_property
    def picture_weight_ZE(self) -> Tensor | None:
        """The output layer's rows for codes 0 … Z − 1, copied when the first picture begins.

        None where the layer computes something other than the product with its weight, as an adapter does.
        """
        layer = self.model.lm_head
        return layer.weight[self.picture_ids_Z] if reads_weight_alone(layer) else None

    def _accept(self, row: Row, token_id: int) -> None:
        row.accept(token_id)
        if self.seen_RV is not None:
            self.seen_RV[row.index, token_id] = True
        if row.finish_reason != "stop" and self._has_stop_string(row):
            row.finish_reason = "stop"

    def _has_stop_string(self, row: Row) -> bool:
        """Return whether the newest id completes a stop string in the text since the last picture."""
        if not self.options.stop_strings or row.codes_left is not None:
            return False
        assert self.tokenizer is not None
        # An id is at least one byte of text, so a stop string that ends here began within as many ids as it has bytes.
        longest = max(len(stop.encode()) for stop in self.options.stop_strings)
        tail = list(itertools.takewhile(self._is_text, reversed(row.new_ids[-longest:])))
        text = self.tokenizer.decode(tail[::-1])
        return any(stop in text for stop in self.options.stop_strings)

    def _is_text(self, token_id: int) -> bool:
        return self.layout is None or bool(self.layout.text_allowed_V[token_id])

    def _drop_lanes(self) -> None:
        """Drop the lanes of rows that have ended and the branches of pictures whose codes are complete."""
        kept = [
            place
            for place, lane in enumerate(self.lanes)
            if lane.row.finish_reason is None and (lane.row.wants_code or not lane.is_branch)
        ]
        if len(kept) < len(self.lanes):
            self.cache.select(kept)
            self.lanes = [self.lanes[place] for place in kept]

    def _text_ids(self) -> Tensor:
        """Return the ids that text may hold or that may end it, ascending; all ids where the model has no layout."""
        if self.layout is None:
            return torch.arange(self.model.config.vocab_size)
        allowed_V = self.layout.text_allowed_V.clone()
        allowed_V[[self.layout.begin_image_id, *self.rows[0].stop_ids]] = True
        return allowed_V.nonzero()[:, 0]

    @cached_property
    def begin_image_index(self) -> int:
        """The index of begin-image in ``text_ids_A``."""
        assert self.layout is not None
        return int((self.text_ids_A == self.layout.begin_image_id).nonzero())

    def _seen(self) -> Tensor:
        seen_RV = torch.zeros(len(self.rows), self.model.config.vocab_size, dtype=torch.bool)
        for row in self.rows:
            seen_RV[row.index, list(row.prompt)] = True
        return seen_RV.to(self.model.device)


def _at(places: Sequence[int], hidden_LE: Tensor) -> Tensor:
    """Return the hidden states of some lanes, without a copy where that is all of them."""
    return hidden_LE if len(places) == len(hidden_LE) else hidden_LE[places]


def _prompts(input_ids_BT: Tensor, attention_mask_BT: Tensor | None, vocab_size: int) -> list[list[int]]:
    """Return each row's ids without the padding, on whichever side it is."""
    if input_ids_BT.dim() != 2:
        raise GenerationError(f"input_ids must be [batch, length]; got {list(input_ids_BT.shape)}.")
    if attention_mask_BT is None:
        prompts = input_ids_BT.tolist()
    elif attention_mask_BT.shape != input_ids_BT.shape:
        raise GenerationError(
            f"attention_mask must have the shape of input_ids, {list(input_ids_BT.shape)}; "
            f"got {list(attention_mask_BT.shape)}."
        )
    else:
        prompts = [ids[real].tolist() for ids, real in zip(input_ids_BT, attention_mask_BT.bool(), strict=True)]
    for index, prompt in enumerate(prompts):
        beyond = sorted({token_id for token_id in prompt if not 0 <= token_id < vocab_size})
        if beyond:
            raise GenerationError(
                f"row {index} has ids {beyond}, which are outside the vocabulary; ids must be below {vocab_size}."
            )
    return prompts
