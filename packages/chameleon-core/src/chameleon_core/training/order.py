"""Which documents a step takes: a function of the seed and the step, so no state is saved."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .._moved import moved_names
from ..errors import ConfigError


class BatchOrder:
    """Passes over ``num_samples`` documents, each pass in an order of its own, cut into steps of ``batch_size``.

    Every document occurs once in a pass; a step may take the end of one pass and the beginning of the next. Each of
    ``world_size`` processes takes every ``world_size``-th document of a step, beginning with the one at ``rank``.
    Raises ``ConfigError`` where there are no documents, or the processes can't share a batch evenly.
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if num_samples < 1:
            raise ConfigError("there are no documents to train on.")
        if not 0 <= rank < world_size or batch_size % world_size:
            raise ConfigError(
                f"batch_size ({batch_size}) must be a multiple of world_size ({world_size}), "
                f"and rank 0…{world_size - 1}; got {rank}."
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        # A step touches one pass or two; more only where it is larger than a pass.
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def __repr__(self) -> str:
        shared = f", rank={self.rank}, world_size={self.world_size}" if self.world_size > 1 else ""
        return f"BatchOrder({self.num_samples}, batch_size={self.batch_size}, seed={self.seed}{shared})"

    def batch(self, step: int) -> list[int]:
        """Return the indices of the documents of a step, counted from 0."""
        first = step * self.batch_size
        places = range(first + self.rank, first + self.batch_size, self.world_size)
        return [int(self._permutation(place // self.num_samples)[place % self.num_samples]) for place in places]

    def step(self, step: int) -> list[int]:
        """Return ``batch(step)``. Deprecated: use ``batch``."""
        warnings.warn("BatchOrder.step is batch now; the old name works until the next release.", DeprecationWarning, 2)
        return self.batch(step)

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)


if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__, {"DocumentOrder": f"{__name__}:BatchOrder"})
