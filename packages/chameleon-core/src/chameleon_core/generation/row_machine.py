"""A row with what decides its next id once the logits are known: its state, its logits processors and its noise.

The engine runs rows on a model of this package. An engine of another kind, which computes logits itself, drives the
same machine, and so writes what the engine would.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._boundary import translates_errors
from ..config import ChameleonConfig
from ..errors import ContextLengthError, GenerationError
from ..layout import TokenLayout
from .decoder import TextDecoder
from .guidance import picture_branches, text_branch
from .options import GenerationOptions
from .points import Point
from .processors import Kind, ProcessorChain, RowView, processor_chain
from .requests import Request
from .rows import FinishReason, Row, start_row


@dataclass(slots=True, eq=False)
class RowMachine:
    """A row of a request, without the model that computes its logits.

    ``start_machine`` makes one. ``RowChooser`` chooses its next id from logits, and ``accept`` takes it, until
    ``finish_reason`` says that the row has ended. Where the row is guided, ``branches`` are the contexts whose logits
    are added to those of its own ids before the choice.
    """

    row: Row
    """Its ids and its state."""
    view: RowView
    """What logits processors know of it: its request's options, its seed, what decodes its text."""
    chains: dict[Kind, ProcessorChain]
    """What changes its logits, for each kind of what it may write."""
    states: dict[Kind, Any]
    """The states of the chains after its ids."""

    @property
    def kind(self) -> Kind:
        """What it chooses next."""
        return self.row.kind

    @property
    def ids(self) -> list[int]:
        """The prompt and the ids after it."""
        return self.row.ids

    @property
    def new_ids(self) -> list[int]:
        """The ids after the prompt."""
        return self.row.new_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the row ended; None while it runs."""
        return self.row.finish_reason

    @property
    def options(self) -> GenerationOptions:
        """The options of its request."""
        return self.view.options

    @property
    def seed(self) -> int | None:
        """The seed of its noise; None takes the likeliest ids."""
        return self.view.seed

    def accept(self, token_id: int) -> list[int]:
        """Take the next id, and return it with those after it that are the only ones allowed, which are taken, too."""
        self._take_one(token_id)
        if self.row.finish_reason != "stop" and self.has_stop_string(self.row):
            self.row.finish_reason = "stop"
        return [token_id, *self.accept_forced()]

    def accept_written(self, ids: Sequence[int]) -> None:
        """Accept what the row wrote in an earlier run. Raises ``GenerationError`` for what it can't have written."""
        for place, token_id in enumerate(ids):
            problem = self.row.why_not_next(token_id)
            if problem is not None:
                raise GenerationError(
                    f"id {token_id}, which is number {place} of what row {self.row.index} has written, {problem}."
                )
            self._take_one(token_id)

    def accept_forced(self) -> list[int]:
        """Accept ids while only one is allowed, and return them."""
        forced = []
        while (token_id := self.row.forced_id) is not None:
            self._take_one(token_id)
            forced.append(token_id)
        return forced

    def branches(self) -> dict[tuple[int, ...], float]:
        """Return the contexts, besides the row's own ids, whose logits are added before the next choice, with weights.

        The weight of the row's own logits is 1 minus the sum of these. There are none where nothing is guided now. From
        one choice to the next, as long as there are any, each context grows by what ``accept`` returned.
        """
        if self.row.finish_reason is not None:
            return {}
        if self.options.guidance_scale != 1:
            return text_branch(self.row, self.options)
        return picture_branches(self.row, self.options) if self.row.lacks_codes else {}

    def point(self) -> Point:
        """Return the choice of the next id, from the logits of the row's own ids alone."""
        kind = self.row.kind
        position = len(self.row.prompt) + len(self.row.new_ids)
        return Point(self.row, (), (1.0,), position, self.chains[kind], self.states[kind], self.seed)

    def has_stop_string(self, row: Row) -> bool:
        """Return whether the newest id completes a stop string in the text since the last picture."""
        stops = self.options.stop_strings
        if not stops or row.segment is not None:
            return False
        assert self.view.tokenizer is not None
        # An id is at least one byte of text, so a stop string that ends here began within as many ids as it has bytes.
        longest = max(len(stop.encode()) for stop in stops)
        tail = list(itertools.takewhile(self._is_text, reversed(row.new_ids[-longest:])))
        text = self.view.tokenizer.decode(tail[::-1])
        return any(stop in text for stop in stops)

    def _is_text(self, token_id: int) -> bool:
        return self.row.layout is None or bool(self.row.layout.text_allowed_V[token_id])

    def _take_one(self, token_id: int) -> None:
        self.row.accept(token_id)
        for kind, chain in self.chains.items():
            self.states[kind] = chain.advance(self.states[kind], token_id)


@translates_errors
def start_machine(
    request: Request, config: ChameleonConfig, *, layout: TokenLayout | None, tokenizer: TextDecoder | None = None
) -> RowMachine:
    """Return the machine of a request's row, after what it has written and the ids that must follow.

    ``layout`` is the meaning of the ids, None for a model without a ``vocabulary_map``; ``tokenizer`` is needed for
    ``stop_strings``. Of the options, ``decoding``, ``cache_implementation`` and ``max_time`` are left to whoever runs
    the machine, as are the request's priority and time limit. Raises ``GenerationError`` or ``ContextLengthError``
    where the request can't be met.
    """
    machine = machine_at_prompt(request, config, layout, tokenizer)
    machine.accept_written(request.written)
    machine.accept_forced()
    return machine


def machine_at_prompt(
    request: Request, config: ChameleonConfig, layout: TokenLayout | None, tokenizer: TextDecoder | None
) -> RowMachine:
    """Return the machine of a request's row at the end of its prompt."""
    options = request.options
    if options.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings are searched in the decoded text: pass tokenizer=processor.tokenizer.")
    _check_ids(request, config)
    if layout is not None and not layout.has_text and options.modality in ("text", "interleaved"):
        raise GenerationError(
            f"modality={options.modality!r} writes text, and the config's vocabulary_map names no ids of text: every "
            "name is that of a picture code or of a special token. Build the config with "
            "vocabulary_map=processor.tokenizer.token_ids, or attach the tokenizer: model.attach_tokenizer(tokenizer)."
        )
    natural_ends = _end_ids(config.eos_token_ids, layout)
    ends = natural_ends if options.eos_token_ids is None else set(options.eos_token_ids)
    row = start_row(
        request.index,
        request.prompt,
        options,
        layout=layout,
        context_length=config.context_length,
        stop_ids=frozenset(ends.union(options.stop_ids)),
    )
    row.also_text = frozenset(natural_ends)
    _check_negative_prompt(row, options, config)
    seed = None
    if options.do_sample:
        # From torch's own generator, so that torch.manual_seed makes a run repeatable.
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
    view = RowView(
        prompt=row.prompt,
        options=options,
        layout=layout,
        tokenizer=tokenizer,
        kind="text",
        stop_ids=row.stop_ids,
        index=row.index,
        limit=row.limit,
        seed=seed,
        config=config,
    )
    chains = {kind: processor_chain(options, kind, request.processors) for kind in row.kinds}
    states = {kind: chain.start(replace(view, kind=kind)) for kind, chain in chains.items()}
    return RowMachine(row, view, chains, states)


def _check_ids(request: Request, config: ChameleonConfig) -> None:
    """Raise ``GenerationError`` where ids of the request are outside the vocabulary."""
    options = request.options
    for name, ids in (
        ("eos_token_ids", options.eos_token_ids or ()),
        ("stop_ids", options.stop_ids),
        ("forbidden_ids", options.forbidden_ids),
        ("negative_prompt_ids", options.negative_prompt_ids),
        ("forbidden_sequences", itertools.chain.from_iterable(options.forbidden_sequences)),
        ("sequence_bias", itertools.chain.from_iterable(ids for ids, _ in options.sequence_bias)),
    ):
        beyond = [token_id for token_id in ids if token_id >= config.vocab_size]
        if beyond:
            raise GenerationError(
                f"{name} {beyond[:8]} are outside the vocabulary; ids must be below {config.vocab_size}."
            )
    given = {*request.prompt, *request.written}
    outside = sorted(token_id for token_id in given if not 0 <= token_id < config.vocab_size)
    if outside:
        raise GenerationError(
            f"row {request.index} has ids {outside[:8]}, which are outside the vocabulary; "
            f"ids must be below {config.vocab_size}."
        )


def _check_negative_prompt(row: Row, options: GenerationOptions, config: ChameleonConfig) -> None:
    # Text is guided by the negative prompt in the place of the prompt, pictures by it and those of the prompt.
    rest = 0 if options.modality == "text" else len(row.prompt)
    longest = len(options.negative_prompt_ids) + rest + row.limit
    if options.negative_prompt_ids and longest > config.context_length:
        raise ContextLengthError(
            f"the negative prompt has {len(options.negative_prompt_ids)} ids, with the rest up to {longest}; "
            f"the context holds {config.context_length}. Shorten it."
        )


def _end_ids(eos_token_ids: Sequence[int], layout: TokenLayout | None) -> set[int]:
    ends = set(eos_token_ids)
    if layout is not None and layout.eos_id not in ends:
        # The vocabulary's own names decide; the ids of such a config are the defaults of another vocabulary.
        ends = {layout.eos_id}
    return ends
