"""Statistics of a batch whose parts several processes have, for quantizers that train with ``over_ranks``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class OverRanks(Protocol):
    """A vector quantizer that trains on, or whose loss depends on, statistics of a whole batch.

    Gradients are averaged over processes whatever the quantizer, so a loss that is a mean over positions needs nothing.
    """

    over_ranks: bool
    """Whether statistics are those of the parts of a batch that all processes of the default group of
    ``torch.distributed`` have; False by default. Training sets it, and each process then calls ``forward`` in step."""


def add_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes.

    Its gradient is that of this process's own tensor; averaged over processes, as in training, it is that of the mean.
    """
    return tensor + (add_over_ranks(tensor) / dist.get_world_size() - tensor.detach())
