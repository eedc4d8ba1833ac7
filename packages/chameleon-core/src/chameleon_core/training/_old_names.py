"""Names of 2026.11 that were replaced, kept for one release; apart from the rest so that they are deleted together."""

from __future__ import annotations

from .order import BatchOrder


class DocumentOrder(BatchOrder):
    """Deprecated: use ``chameleon_core.training.BatchOrder``."""

    def __init__(self, num_documents: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(num_documents, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.num_documents = num_documents

    def step(self, step: int) -> list[int]:
        """Deprecated: use ``BatchOrder.batch``."""
        return self.batch(step)
