"""Generation of one batch: all rows are submitted to an engine, which runs until they have ended.

Shapes: B batch, T prompt length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decoder import Decoder, TextDecoder
from .engine import Engine
from .options import GenerationOptions
from .prompts import unpadded
from .requests import NewIds, Request, RequestHandle
from .rows import FinishReason


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of generation gave each row."""

    ids: tuple[int | None, ...]
    """The new id of each row; None for a row that got none, because it had ended or waits for its prompt."""
    finish_reasons: tuple[FinishReason | None, ...]
    """Why each row ended; None while it runs."""


def generate_ids(
    model: Decoder[Any],
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    options: GenerationOptions,
    *,
    written: Sequence[Sequence[int]] | None = None,
    tokenizer: TextDecoder | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[Step]:
    """Generate a step at a time until every row has ended or ``should_stop()`` is true.

    ``input_ids_BT`` int64 [B, T] are the prompts, padded on either side where ``attention_mask_BT`` [B, T] is 0.
    ``written`` are the ids that each row has written in an earlier run, after which it goes on. ``tokenizer`` is needed
    for ``stop_strings``. Prompts and options are checked eagerly, before the first step is requested. Raises
    ``GenerationError`` where they are invalid, ``ContextLengthError`` where the context is too short.
    """
    options = with_seed(options)
    engine = Engine(model, tokenizer=tokenizer, cache_implementation=options.cache_implementation)
    prompts = unpadded(input_ids_BT, attention_mask_BT)
    handles = [
        engine.submit(Request(prompt=prompt, options=options, index=index, written=ids))
        for index, (prompt, ids) in enumerate(zip(prompts, written or [[]] * len(prompts), strict=True))
    ]
    return run_steps(engine, handles, should_stop or (lambda: False))


def new_ids(steps: Iterable[Step], input_ids_BT: Tensor, pad_id: int) -> Tensor:
    """Return what each row wrote, int64 [B, new] on the device of the prompts; ``pad_id`` fills the shorter rows."""
    rows: list[list[int]] = [[] for _ in input_ids_BT]
    for step in steps:
        for row, token_id in zip(rows, step.ids, strict=True):
            if token_id is not None:
                row.append(token_id)
    width = max(map(len, rows), default=0)
    padded = [row + [pad_id] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=input_ids_BT.device).reshape(len(rows), width)


def with_seed(options: GenerationOptions) -> GenerationOptions:
    """Return options that have a seed where they sample: one for all rows, from torch's own generator.

    So ``torch.manual_seed`` makes a run repeatable.
    """
    if options.do_sample and options.seed is None:
        return options.replace(seed=int(torch.randint(2**62, ())))
    return options


def run_steps(
    engine: Engine[Any], handles: Sequence[RequestHandle], should_stop: Callable[[], bool]
) -> Generator[Step]:
    """Run an engine until it is idle or ``should_stop()`` is true, and yield an id for each row at a time.

    A search that is stopped writes the best text that it has. Raises the error of the first row that ends with one.
    """
    rows = {handle: row for row, handle in enumerate(handles)}
    reasons: list[FinishReason | None] = [None] * len(handles)
    while not engine.is_idle and not should_stop():
        events = engine.step()
        for event in events:
            if event.handle.error is not None:
                raise event.handle.error
        yield from one_id_a_row(events, rows, reasons)
    if not engine.is_idle:
        for handle in handles:
            handle.cancel()
        cut_off = [event for event in engine.step() if event.handle.hypotheses]
        yield from one_id_a_row(cut_off, rows, reasons)


def one_id_a_row(
    events: Sequence[NewIds], rows: dict[RequestHandle, int], reasons: list[FinishReason | None]
) -> Generator[Step]:
    """Yield what a step of the engine gave, which may be several ids for a row, an id for each row at a time.

    Rows that end without an id, as those whose time is over, end in a step that may have no ids at all.
    """
    ended = [event for event in events if not event.ids and event.finish_reason is not None]
    for event in ended:
        reasons[rows[event.handle]] = event.finish_reason
    for number in itertools.count():
        found = [(rows[event.handle], event) for event in events if number < len(event.ids)]
        if not found:
            if ended and number == 0:
                yield Step((None,) * len(rows), tuple(reasons))
            return
        ids: list[int | None] = [None] * len(rows)
        for row, event in found:
            ids[row] = event.ids[number]
            if number + 1 == len(event.ids):
                reasons[row] = event.finish_reason
        yield Step(tuple(ids), tuple(reasons))
