"""What a row is fed in a step: its lanes with their new ids, and the ids that are tried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from .decoder import LaneCacheLike, LaneT


@dataclass(slots=True, eq=False)
class Lane(Generic[LaneT]):
    """One lane of a row."""

    cached: LaneT
    """Its keys and values."""
    pending: list[int]
    """The ids that it hasn't been fed, at least one."""
    weight: float = 1.0
    """The weight of its logits in the guided sum."""
    is_branch: bool = False
    """Whether it is a branch of the guidance instead of the row's whole context."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed(Generic[LaneT]):
    """What a row is fed in one step."""

    lanes: list[tuple[Lane[LaneT], list[int]]]
    """The row's lanes with their ids; none where it waits for the prompts of others."""
    offsets: tuple[int, ...] = ()
    """Where ids are chosen, counted from the last pending id, 0; none while the row hasn't been fed all it has."""
    guesses: tuple[int, ...] = ()
    """The ids that follow the last pending one on trial."""
    copies: int = 0
    """How many copies of its lanes may be made after the pass."""

    @property
    def prompt_ids(self) -> int:
        """How many ids there are besides the last one of each lane and the guesses."""
        return sum(len(ids) - len(self.guesses) - bool(self.offsets) for _, ids in self.lanes)

    def growth(self, cache: LaneCacheLike[LaneT]) -> int:
        """Return how many positions the lanes that outgrow their room, and copies of them, take more."""
        capacities = [
            max(lane.cached.capacity, cache.capacity_for(lane.cached.length + len(ids))) for lane, ids in self.lanes
        ]
        grown = sum(capacities) - sum(lane.cached.capacity for lane, _ in self.lanes)
        return grown + self.copies * max(capacities, default=0)
