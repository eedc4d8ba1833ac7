"""What generation needs of a model and of a text tokenizer, so that it names no concrete one.

Shapes: M flattened ids of all lanes, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..config import ChameleonConfig
from ..layout import TokenLayout
from .repacked_head import RepackedHead


class LaneLike(Protocol):
    """One lane of a cache; ``chameleon_core.model.lane_cache.CachedLane`` is one."""

    length: int
    """How many positions it has stored."""

    @property
    def capacity(self) -> int:
        """How many positions it has room for before it must grow."""
        ...


LaneT = TypeVar("LaneT", bound=LaneLike)


class LaneCacheLike(Protocol[LaneT]):
    """The keys and values of lanes that come and go; ``chameleon_core.model.lane_cache.LaneCache`` is one."""

    @property
    def positions(self) -> int:
        """How many positions the lanes have room for, together."""
        ...

    def capacity_for(self, length: int, /) -> int:
        """Return how many positions a lane of this length takes."""
        ...

    def add(self, expected: int, /) -> LaneT:
        """Return a new, empty lane with room for ``expected`` positions."""
        ...

    def free(self, lane: LaneT, /) -> None:
        """Remove a lane."""
        ...

    def fork(self, lane: LaneT, /) -> LaneT:
        """Return a copy of a lane, of the same capacity."""
        ...

    def truncate(self, lane: LaneT, length: int, /) -> None:
        """Forget the positions of a lane from ``length`` on."""
        ...

    def copy_out(self, lane: LaneT, start: int, end: int, /) -> Any:
        """Return a copy of some positions of a lane."""
        ...

    def copy_in(self, lane: LaneT, positions: Any, /) -> None:
        """Append positions that ``copy_out`` returned to a lane."""
        ...


class Decoder(Protocol[LaneT]):
    """A model that decodes lanes of ids; ``chameleon_core.ChameleonForConditionalGeneration`` is one."""

    @property
    def config(self) -> ChameleonConfig:
        """The size of the vocabulary, the length of the context and the end-of-stream ids."""
        ...

    @property
    def layout(self) -> TokenLayout:
        """Which ids belong to pictures; only used where the config has a ``vocabulary_map``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        ...

    @property
    def lm_head(self) -> nn.Linear:
        """The output layer, or a layer that has its ``weight`` [V, E]."""
        ...

    @property
    def repacked_head(self) -> RepackedHead:
        """The copy of the output layer that is fastest for a few hidden states."""
        ...

    def new_lane_cache(self, name: str, /) -> LaneCacheLike[LaneT]:
        """Return the cache of this name, without lanes."""
        ...

    def feed_lanes(self, feeds: Sequence[tuple[LaneT, Sequence[int]]], cache: Any, /) -> Tensor:
        """Run the model on new ids of lanes, store their keys and values, and return the final hidden states [M, E].

        The hidden states are those of all new ids, lane after lane in the order of ``feeds``.
        """
        ...


class TextDecoder(Protocol):
    """A text tokenizer; ``chameleon_text.TextTokenizer`` is one."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some ids."""
        ...
