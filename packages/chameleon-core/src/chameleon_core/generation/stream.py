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

from ..errors import GenerationError
from .decoder import Decoder, TextDecoder
from .engine import Engine
from .options import GenerationOptions
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
    if options.do_sample and options.seed is None:
        # One seed for all rows, from torch's own generator, so that torch.manual_seed makes a run repeatable.
        options = options.replace(seed=int(torch.randint(2**62, ())))
    engine = Engine(model, tokenizer=tokenizer, cache_implementation=options.cache_implementation)
    prompts = _prompts(input_ids_BT, attention_mask_BT)
    handles = [
        engine.submit(Request(prompt=prompt, options=options, index=index, written=ids))
        for index, (prompt, ids) in enumerate(zip(prompts, written or [[]] * len(prompts), strict=True))
    ]
    return _steps(engine, handles, should_stop or (lambda: False))


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


def _steps(engine: Engine[Any], handles: Sequence[RequestHandle], should_stop: Callable[[], bool]) -> Generator[Step]:
    rows = {handle: row for row, handle in enumerate(handles)}
    reasons: list[FinishReason | None] = [None] * len(handles)
    while not engine.is_idle and not should_stop():
        events = engine.step()
        for event in events:
            if event.handle.error is not None:
                raise event.handle.error
        yield from _one_id_a_row(events, rows, reasons)


def _one_id_a_row(
    events: Sequence[NewIds], rows: dict[RequestHandle, int], reasons: list[FinishReason | None]
) -> Generator[Step]:
    """Yield what a step of the engine gave, which may be several ids for a row, an id for each row at a time."""
    for number in itertools.count():
        found = [(rows[event.handle], event) for event in events if number < len(event.ids)]
        if not found:
            return
        ids: list[int | None] = [None] * len(rows)
        for row, event in found:
            ids[row] = event.ids[number]
            if number + 1 == len(event.ids):
                reasons[row] = event.finish_reason
        yield Step(tuple(ids), tuple(reasons))


def _prompts(input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> list[list[int]]:
    """Return each row's ids without the padding, on whichever side it is."""
    if input_ids_BT.dim() != 2:
        raise GenerationError(f"input_ids must be [batch, length]; got {list(input_ids_BT.shape)}.")
    if attention_mask_BT is None:
        return input_ids_BT.tolist()
    if attention_mask_BT.shape != input_ids_BT.shape:
        raise GenerationError(
            f"attention_mask must have the shape of input_ids, {list(input_ids_BT.shape)}; "
            f"got {list(attention_mask_BT.shape)}."
        )
    return [ids[real].tolist() for ids, real in zip(input_ids_BT, attention_mask_BT.bool(), strict=True)]
