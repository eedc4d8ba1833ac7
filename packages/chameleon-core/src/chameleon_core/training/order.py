"""Which documents a step takes: a function of the seed and the step, so that there is no position to save."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..errors import ConfigError


class DocumentOrder:
    """Passes over ``num_documents`` documents, each in an order of its own, cut into steps of ``batch_size``.

    Every document comes once in a pass; a step may take the end of one pass and the beginning of the next. Of each
    step, ``rank`` of ``world_size`` processes takes every ``world_size``-th document, all of them together the step.
    """

    def __init__(self, num_documents: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if num_documents < 1:
            raise ConfigError("there are no documents to train on.")
        if not 0 <= rank < world_size or batch_size % world_size:
            raise ConfigError(
                f"batch_size ({batch_size}) must be a multiple of world_size ({world_size}), "
                f"and rank from 0 to {world_size - 1}; got {rank}."
            )
        self.num_documents = num_documents
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        # A step touches at most a few passes, almost always one.
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def step(self, step: int) -> list[int]:
        """The indices of the documents of a step, counted from 0."""
        first = step * self.batch_size
        places = range(first + self.rank, first + self.batch_size, self.world_size)
        return [int(self._permutation(place // self.num_documents)[place % self.num_documents]) for place in places]

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_documents)
