"""What is checked before a request waits to run, and the row that waits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import ContextLengthError, GenerationError
from ..layout import TokenLayout
from .decoder import Decoder, LaneCacheLike, LaneT, TextDecoder
from .decoding import row_decoding
from .hypotheses import SearchingRow
from .processors import Kind, ProcessorChain, RowView, processor_chain
from .requests import Request, RequestHandle
from .rows import start_row
from .running import RunningRow


def running_row(model: Decoder[LaneT], request: Request, tokenizer: TextDecoder | None) -> RunningRow[LaneT]:
    """Return a row that waits to run. Raises ``GenerationError`` or ``ContextLengthError`` where it can't."""
    config, options = model.config, request.options
    if options.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings are searched in the decoded text: pass tokenizer=processor.tokenizer.")
    sequences = itertools.chain.from_iterable(options.forbidden_sequences)
    biased = itertools.chain.from_iterable(ids for ids, _ in options.sequence_bias)
    for name, ids in (
        ("eos_token_ids", options.eos_token_ids or ()),
        ("stop_ids", options.stop_ids),
        ("forbidden_ids", options.forbidden_ids),
        ("negative_prompt_ids", options.negative_prompt_ids),
        ("forbidden_sequences", sequences),
        ("sequence_bias", biased),
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
    layout = None if config.vocabulary_map is None else model.layout
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
    # Text is guided by the negative prompt in the place of the prompt, pictures by it and those of the prompt.
    rest = 0 if options.modality == "text" else len(row.prompt)
    longest = len(options.negative_prompt_ids) + rest + row.limit
    if options.negative_prompt_ids and longest > config.context_length:
        raise ContextLengthError(
            f"the negative prompt has {len(options.negative_prompt_ids)} ids, with the rest up to {longest}; "
            f"the context holds {config.context_length}. Shorten it."
        )
    seed = None
    if options.do_sample:
        # From torch's own generator, so that torch.manual_seed makes a run repeatable.
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
    chains: dict[Kind, ProcessorChain] = {}
    states: dict[Kind, Any] = {}
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
    for kind in row.kinds:
        chains[kind] = processor_chain(options, kind, request.processors)
        states[kind] = chains[kind].start(replace(view, kind=kind))
    guessers, searcher = row_decoding(view, row.kinds, config.vocab_size)
    parts = row, RequestHandle(request), seed, chains, states, guessers, tokenizer
    return RunningRow(*parts) if searcher is None else SearchingRow(*parts, searcher=searcher)


def check_room(row: RunningRow[LaneT], cache: LaneCacheLike[LaneT], max_positions: int | None) -> None:
    """Raise ``ContextLengthError`` where a row may need more positions than there are, even alone.

    A row that may write as much as the context holds writes as much as there is room for.
    """
    if max_positions is None:
        return
    options = row.handle.request.options
    length = len(row.row.prompt) + row.row.limit
    # A segment that the prompt leaves open was opened for all the room that it has.
    least = row.row.least_ids if row.row.segment is None else row.row.segment.ids_left or row.row.limit
    while options.max_new_tokens is None and row.row.limit > least:
        if row.num_lanes * cache.capacity_for(length) <= max_positions:
            break
        length -= 1
        row.row.limit -= 1
    needed = row.num_lanes * cache.capacity_for(length)
    if needed > max_positions:
        raise ContextLengthError(
            f"the request may take {length} positions in each of {row.num_lanes} lanes, which is room for {needed}; "
            f"the engine has max_positions={max_positions}. Raise it, shorten the prompt or lower max_new_tokens."
        )


def _end_ids(eos_token_ids: Sequence[int], layout: TokenLayout | None) -> set[int]:
    ends = set(eos_token_ids)
    if layout is not None and layout.eos_id not in ends:
        # The vocabulary's own names decide; the ids of such a config are the defaults of another vocabulary.
        ends = {layout.eos_id}
    return ends
