"""The processes that train an image tokenizer together, as ``torchrun`` starts them, and what they tell each other.

A rank is one of these processes. The loop of training is the same in all of them: what a rank must know of the others
goes through ``Ranks``, whose methods return their argument where there is one process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from ..quantizers import VectorQuantizer
from ..quantizers.over_ranks import OverRanks, add_over_ranks


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together, seen from one of them."""

    device: torch.device
    """That of this process's model."""
    rank: int = 0
    """The number of this process, counted from 0."""
    count: int = 1
    """How many there are."""

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the processes that ``torchrun`` started with this one, and the process group where there is none yet.

        Tensors are exchanged by gloo on a CPU, by NCCL on GPUs.
        """
        if not dist.is_available():
            return cls(device)
        if not dist.is_initialized():
            if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
                return cls(device)
            dist.init_process_group(device_id=device if device.type == "cuda" else None)
        return cls(device, dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self.count == 1

    def share(self, count: int) -> slice:
        """Return which of ``count`` things are this process's: the first rank has the first ones."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over ranks; all have the first one's weights afterwards."""
        return module if self.alone else DistributedDataParallel(module, forward_sync_buffers=False)

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generators for a step, where there are several ranks: each drops other activations.

        So a run needs no state of generators of ranks, whose number may change when it is resumed. A single process
        draws all steps from one generator, whose state is saved.
        """
        if not self.alone:
            mixed = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        return tensor if self.alone else add_over_ranks(tensor)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks."""
        return tensor if self.alone else add_over_ranks(tensor) / self.count

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means of scalars over all ranks."""
        means = self.mean(torch.stack([value.detach().double() for value in values.values()]))
        return dict(zip(values, means.tolist(), strict=True))

    def gathered(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks, those of the first one first. Each has as many."""
        if self.alone:
            return own
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def largest(self, value: float) -> float:
        """Return the largest of the numbers that all ranks have."""
        if self.alone:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.largest(0)

    @contextlib.contextmanager
    def training(self, quantizer: VectorQuantizer) -> Iterator[None]:
        """Let a quantizer take its statistics from the batches of all ranks."""
        shares = not self.alone and isinstance(quantizer, OverRanks)
        if shares:
            quantizer.over_ranks = True  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if shares:
                quantizer.over_ranks = False  # type: ignore[attr-defined]

    def check_same(self, quantizer: nn.Module, name: str) -> None:
        """Raise ``ConfigError`` on all ranks where a quantizer's state isn't the same on all of them."""
        if self.alone:
            return
        differs = False
        for tensor in quantizer.state_dict().values():
            of_first = tensor.clone()
            dist.broadcast(of_first, 0)
            differs |= not torch.equal(of_first, tensor)
        if self.largest(differs):
            raise ConfigError(
                f"the vector quantizer {name!r} is no longer the same in all {self.count} processes: each changes it "
                "by its own part of a batch. Train it in one process; a quantizer of your own takes its statistics "
                "from all of them while its over_ranks is true."
            )


ALONE = Ranks(torch.device("cpu"))
"""A single process."""
