"""What an engine calls of a model, whether this process has all weights or leads others that have slices of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from .lane_cache import CachedLane, LaneCache
from .leading import Leader
from .transformer import ChameleonModel


class LaneDecoding:
    """Decodes lanes of a cache with the layers of ``model``."""

    model: ChameleonModel
    _leader: Leader | None = None

    def new_lane_cache(self, name: str = "dynamic") -> LaneCache:
        """Return the cache of an engine by its name, without lanes."""
        return self.model.new_lane_cache(name) if self._leader is None else self._leader.new_cache(name)

    def feed_lanes(self, feeds: Sequence[tuple[CachedLane, Sequence[int]]], cache: LaneCache) -> Tensor:
        """Feed lanes of an engine's cache new ids; return the final hidden states [M, E], lane after lane."""
        return self.model.feed_lanes(feeds, cache) if self._leader is None else self._leader.feed(feeds, cache)

    def compile_decoding(self, rows: Iterable[int] = (), **options: Any) -> dict[int, float]:
        """Compile the steps of generation, those of ``rows`` at once; return the seconds of each.

        Arguments and errors are those of ``ChameleonModel.compile_decoding``. Raises ``ConfigError`` for a model of
        which this process has slices.
        """
        if self._leader is not None:
            self._leader.refuse("compile_decoding()")
        return self.model.compile_decoding(rows, **options)

    @property
    def compiles_steps(self) -> bool:
        """Whether steps of generation are compiled."""
        return self.model.compiles_steps
