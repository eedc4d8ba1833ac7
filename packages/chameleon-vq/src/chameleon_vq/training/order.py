"""Which samples a step takes, and its random numbers: functions of the seed and the step, so no state is saved."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_PURPOSES = {"order": 0, "augment": 1, "codebook": 2}


class BatchOrder:
    """Passes over ``num_samples`` samples, each pass in an order of its own, cut into steps of ``batch_size``.

    Every sample occurs once in a pass; a step may take the end of one pass and the beginning of the next.
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        # A step touches one pass or two; more only where it is larger than a pass.
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def __repr__(self) -> str:
        return f"BatchOrder({self.num_samples}, batch_size={self.batch_size}, seed={self.seed})"

    def batch(self, step: int) -> list[int]:
        """Return the indices of the samples of a step, counted from 0."""
        first = step * self.batch_size
        return [self._at(place) for place in range(first, first + self.batch_size)]

    def _at(self, place: int) -> int:
        return self._permutation(place // self.num_samples)[place % self.num_samples]

    def _draw(self, number: int) -> list[int]:
        permutation: list[int] = random_for(self.seed, "order", number).permutation(self.num_samples).tolist()
        return permutation


def random_for(seed: int, purpose: str, number: int) -> np.random.Generator:
    """Return the random generator for one purpose ("order", "augment" or "codebook") in one pass or step."""
    return np.random.default_rng([seed, _PURPOSES[purpose], number])
