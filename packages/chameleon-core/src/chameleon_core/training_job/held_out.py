"""Documents that are held out: chosen by their keys, so that neither order nor number of workers matters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..training.data import TokenDataset, TokenDocument

MOST = 64
"""The documents that are held out of a large dataset, by default."""


@dataclass(frozen=True, slots=True)
class Part(Sequence[TokenDocument]):
    """Some documents of a dataset, read when they are asked for."""

    dataset: TokenDataset
    """The dataset."""
    indices: tuple[int, ...]
    """Which of its documents."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> TokenDocument:  # type: ignore[override]  # no slices
        return self.dataset[self.indices[index]]


def hold_out(dataset: TokenDataset, number: int | None) -> tuple[Part, Part]:
    """Return the documents to train on, and those that are held out: one in 20 unless a number is given.

    Raises ``ConfigError`` where none would be left to train on.
    """
    count = len(dataset)
    if number is None:
        number = min(MOST, max(count // 20, min(1, count - 1)))
    if number >= count:
        raise ConfigError(f"held_out is {number} of {count} documents; expected at least one to be left to train on.")
    keys = [hashlib.sha256(key.encode()).digest() for key in dataset.keys()]  # noqa: SIM118  # its iterator yields documents
    chosen = set(sorted(range(count), key=keys.__getitem__)[:number])
    rest = tuple(index for index in range(count) if index not in chosen)
    return Part(dataset, rest), Part(dataset, tuple(sorted(chosen)))
