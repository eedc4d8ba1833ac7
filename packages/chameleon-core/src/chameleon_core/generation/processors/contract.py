"""The contract of logits processors: what a processor is asked, and what it knows of a row.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ...config import ChameleonConfig
from ...layout import TokenLayout
from ..decoder import TextDecoder
from ..options import GenerationOptions
from ..segment_kinds import Kind

FORBIDDEN = float("-inf")
"""The logit of an id that may not come next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """What a processor knows of a row when the row starts."""

    prompt: tuple[int, ...]
    """The ids of the prompt, at least one."""
    options: GenerationOptions
    """The options of the row's request."""
    layout: TokenLayout | None
    """The meaning of the ids; None where it is unknown and all ids are text."""
    tokenizer: TextDecoder | None
    """What decodes ids of text; None where the request has none."""
    kind: Kind
    """Which choices the processor is asked about: "text", the next id of text, which may end it or begin a segment;
    "image", the next code of a picture; the name of a segment codec, the next id of one of its segments."""
    stop_ids: frozenset[int] = frozenset()
    """The ids that end the row."""
    index: int = 0
    """The index of the row in its request, ≥ 0."""
    limit: int | None = None
    """The largest number of ids that may follow the prompt; None where it is unknown."""
    seed: int | None = None
    """The seed of the row's noise; None takes the likeliest ids."""
    config: ChameleonConfig | None = None
    """The configuration of the model; None where it is unknown."""


@runtime_checkable
class LogitsProcessor(Protocol):
    """What changes the logits before an id is chosen from them.

    ``start`` makes the state of a row at the end of its prompt, ``advance`` the state after one more id, and
    ``process`` changes the logits of several rows by their states. ``advance`` gets every id of the row: a processor
    for text sees the codes of the row's pictures there, too.

    The rows of a call may be any rows of any requests in any order, and the ids any ids in any order: what a row gets
    depends on its own logits and state alone, and what an id gets on no other id's place. The same processor serves
    many requests at the same time, so what it knows of a row is in the state.

    States are immutable: ``advance`` returns a new one, or the same where nothing changes, and the old one stays valid,
    because ids may be guessed and taken back.
    """

    def start(self, row: RowView, /) -> Any:
        """Return the state of a row at the end of its prompt; None does where the processor needs none."""
        ...

    def advance(self, state: Any, token_id: int, /) -> Any:
        """Return the state after one more id of the row."""
        ...

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the changed logits, float32 [R, A] on the same device; ``FORBIDDEN`` forbids an id.

        ``logits_RA`` are float32 and never NaN, forbidden ids included at ``FORBIDDEN``; they aren't changed in place.
        ``ids_A`` int64 [A] are the ids of the columns, which differ from one another and are never changed. ``states``
        has the state of each row. Each row keeps at least one id that isn't forbidden.
        """
        ...


class StatelessProcessor:
    """The part of a processor that has no state: derive from it and add ``process``."""

    def start(self, row: RowView, /) -> None:
        """Return None."""

    def advance(self, state: None, token_id: int, /) -> None:
        """Return None."""
