"""A point of choice, which a row asks for and the chooser answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .processors import ProcessorChain
from .rows import Row


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A position of a row whose id is chosen in this step."""

    row: Row
    """The row, in the state before its next id."""
    places: tuple[int, ...]
    """The indices of its lanes' hidden states in the pass."""
    weights: tuple[float, ...]
    """The weights of its lanes' logits in the guided sum."""
    position: int
    """The index that the id will have among the row's ids."""
    chain: ProcessorChain
    """What changes the logits."""
    state: Any
    """The chain's state after the ids before this one."""
    seed: int | None
    """The seed of its noise; None takes the likeliest id."""
    rank: int | None = None
    """The place of a hypothesis among those of its row, which gets ``Scores``; None where an id is chosen."""

    @property
    def forbidden_beginnings(self) -> list[int]:
        """The ids among the candidates that begin a segment and may not be chosen."""
        row = self.row
        if row.kind != "text":
            return []
        ahead = self.position - len(row.prompt) - len(row.new_ids)
        return [begin_id for begin_id in row.beginnings if not row.may_begin(begin_id, ahead)]
