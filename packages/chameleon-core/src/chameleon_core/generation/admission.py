"""What is checked before a request waits to run, and the row that waits."""

from __future__ import annotations

from ..errors import ContextLengthError
from .decoder import Decoder, LaneCacheLike, LaneT, TextDecoder
from .decoding import row_decoding
from .hypotheses import SearchingRow
from .requests import Request, RequestHandle
from .row_machine import machine_at_prompt
from .running import RunningRow


def running_row(model: Decoder[LaneT], request: Request, tokenizer: TextDecoder | None) -> RunningRow[LaneT]:
    """Return a row that waits to run. Raises ``GenerationError`` or ``ContextLengthError`` where it can't."""
    config = model.config
    layout = None if config.vocabulary_map is None else model.layout
    machine = machine_at_prompt(request, config, layout, tokenizer)
    guessers, searcher = row_decoding(machine.view, machine.row.kinds, config.vocab_size)
    parts = machine.row, machine.view, machine.chains, machine.states, RequestHandle(request), guessers
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
