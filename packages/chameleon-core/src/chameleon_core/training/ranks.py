"""The processes that train together, as ``torchrun`` starts them, and what they tell each other.

A rank is one of these processes. The loop of training is the same in all of them: what a rank must know of the others
goes through ``Ranks``, whose methods return their argument where there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..errors import ConfigError

DATA = "data"
"""The dimension of a mesh whose ranks have different documents."""
TENSOR = "tensor"
"""The dimension of a mesh whose ranks have the same documents, and parts of each layer."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together, seen from one of them."""

    mesh: DeviceMesh | None
    """All ranks, with the dimensions ``DATA`` and ``TENSOR``; None of a single process."""

    @classmethod
    def join(cls, device: torch.device, *, tensor_parallel: int = 1) -> Ranks:
        """Join the processes that ``torchrun`` started with this one, and the process group where there is none yet.

        ``device`` is that of the model: tensors are exchanged by gloo on a CPU, by NCCL on GPUs. Ranks that follow each
        other, ``tensor_parallel`` of them, have the same documents. Raises ``ConfigError`` where that doesn't divide
        the number of ranks.
        """
        count = _count()
        if count % tensor_parallel:
            raise ConfigError(
                f"TrainingOptions.tensor_parallel is {tensor_parallel}, which doesn't divide the number of ranks, "
                f"{count}. Start another number by torchrun --nproc-per-node, or change the option."
            )
        if count == 1:
            return cls(None)
        shape = (count // tensor_parallel, tensor_parallel)
        return cls(init_device_mesh(device.type, shape, mesh_dim_names=(DATA, TENSOR)))

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.mesh is None or dist.get_rank() == 0

    @property
    def data_rank(self) -> int:
        """Which share of a step's documents this process has, counted from 0."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(DATA)

    @property
    def data_count(self) -> int:
        """How many shares a step's documents have."""
        return 1 if self.mesh is None else self.mesh[DATA].size()

    @property
    def tensor_count(self) -> int:
        """How many ranks have parts of a layer."""
        return 1 if self.mesh is None else self.mesh[TENSOR].size()

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generators for a step, where there are several ranks: each drops other activations.

        So a run needs no state of generators of ranks, whose number may change when it is resumed. A single process
        draws all steps from one generator, whose state is saved.
        """
        if self.mesh is not None:
            mixed = np.random.SeedSequence((seed, step, self.data_rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of each tensor over all shares of the documents, in its dtype, added in float64."""
        if self.mesh is None:
            return list(tensors)
        flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self.mesh.get_group(DATA))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view(like.shape).to(like.dtype) for part, like in zip(parts, tensors, strict=True)]

    def total(self, value: float) -> float:
        """Return the sum of a number over all shares of the documents."""
        return value if self.mesh is None else float(self.add([self._tensor(value, torch.float64)])[0])

    def largest(self, value: int) -> int:
        """Return the largest of the integers that all ranks have."""
        if self.mesh is None:
            return value
        found = self._tensor(value, torch.int64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.mesh is not None:
            self.largest(0)

    def _tensor(self, value: float, dtype: torch.dtype) -> Tensor:
        assert self.mesh is not None
        return torch.tensor(value, dtype=dtype, device=self.mesh.device_type)


def _count() -> int:
    """Return the number of processes: of the group that was joined, else of ``torchrun``, else 1."""
    if not dist.is_available():
        return 1
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
