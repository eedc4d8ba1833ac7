"""What generation needs of a model and of a text tokenizer, so that it names no concrete one.

Shapes: L lanes, T query length, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from ..config import ChameleonConfig
from ..layout import TokenLayout
from .repacked_head import RepackedHead


class LaneCache(Protocol):
    """The keys and values of several lanes that end at one slot; ``chameleon_core.KVCache`` is one."""

    def pad(self, starts: Sequence[int], /) -> None:
        """Declare the first ``starts[i]`` slots of lane i padding, before anything is stored in it."""
        ...

    def extend(self, other: Self, /) -> None:
        """Append the lanes of ``other``, whose memory may be taken over."""
        ...

    def select(self, lanes: Sequence[int], /) -> None:
        """Keep these lanes, in this order."""
        ...


CacheT = TypeVar("CacheT", bound=LaneCache)


class Decoder(Protocol[CacheT]):
    """A model that decodes a token at a time; ``chameleon_core.ChameleonForConditionalGeneration`` is one."""

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

    def new_cache(self, batch_size: int, *, capacity: int) -> CacheT:
        """Return an empty cache of ``batch_size`` lanes with room for ``capacity`` slots before it must grow."""
        ...

    def forward_cached(self, ids_LT: Tensor, cache: CacheT, /) -> Tensor:
        """Run the model on new ids, store their keys and values, and return the final hidden states [L, T, E]."""
        ...


class TextDecoder(Protocol):
    """A text tokenizer; ``chameleon_text.TextTokenizer`` is one."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some ids."""
        ...
