"""The layers of a model of which each rank has loaded its slices alone, for generation.

The layers are divided as ``tensor_parallel`` divides them in training. There each weight is a ``DTensor``, whose every
operation is planned; here it is a plain tensor, since a step of decoding has few numbers and many operations.

Shapes: M positions, E hidden width, V vocabulary, U ids of this rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ChameleonConfig
from ..errors import ConfigError
from .division import check_divides

_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "q_norm", "k_norm", "embed_tokens", "lm_head")
_BY_COLUMNS = ("o_proj", "down_proj")
_YEAR = timedelta(days=365)

Add = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over ranks."""


@dataclass(frozen=True, eq=False)
class SliceRanks:
    """The processes that have slices of one model, seen from one of them."""

    rank: int
    count: int
    commands: dist.ProcessGroup
    """The group in which the first rank says what to compute; the others may wait long."""

    @classmethod
    def join(cls, count: int, config: ChameleonConfig, device: torch.device | str) -> SliceRanks:
        """Join ``count`` processes that ``torchrun`` started.

        Raises ``ConfigError`` where others were started, and where they can't divide the layers.
        """
        started = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
        if dist.is_initialized():
            started = dist.get_world_size()
        if started != count:
            raise ConfigError(
                f"tensor_parallel is {count}, and the number of processes {started}. Start as many processes: "
                f"torchrun --nproc-per-node {count}."
            )
        check_divides(config, count)
        if not dist.is_initialized():
            of_cuda = torch.device(device).type == "cuda"
            dist.init_process_group(device_id=torch.device(device) if of_cuda else None)
        return cls(dist.get_rank(), count, dist.new_group(backend="gloo", timeout=_YEAR))

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """Return this rank's slice of a weight by its name, a view; all of what isn't divided."""
        layer, _, kind = name.rpartition(".")
        layer = layer.rpartition(".")[2]
        if layer in _BY_ROWS:
            return tensor.chunk(self.count)[self.rank]
        if layer in _BY_COLUMNS and kind == "weight":
            return tensor.chunk(self.count, dim=1)[self.rank].contiguous()
        return tensor

    def send(self, command: Any) -> None:
        """Tell the other ranks what to compute."""
        dist.broadcast_object_list([command], src=0, group=self.commands)

    def gathered(self, own_MU: Tensor) -> Tensor:
        """Return the logits of all ranks' ids, [M, V]."""
        own_MU = own_MU.contiguous()
        parts = [torch.empty_like(own_MU) for _ in range(self.count)]
        dist.all_gather(parts, own_MU)
        return torch.cat(parts, dim=-1)

    def receive(self) -> Any:
        """Wait for what the first rank says."""
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, group=self.commands)
        return received[0]


class RankEmbedding(nn.Module):
    """The embeddings of this rank's ids; each rank looks up its own, and the sum has all."""

    def __init__(self, weight_UE: nn.Parameter, ranks: SliceRanks, add: Add) -> None:
        super().__init__()
        self.weight = weight_UE
        self.first = ranks.rank * len(weight_UE)
        self.add = add

    def forward(self, ids: Tensor) -> Tensor:
        places = ids - self.first
        is_own = (places >= 0) & (places < len(self.weight))
        embedded = F.embedding(places.clamp(0, len(self.weight) - 1), self.weight)
        return self.add(embedded.masked_fill(~is_own[..., None], 0))


class RankProjection(nn.Module):
    """A linear layer whose inputs ranks divide: the sum of their products."""

    def __init__(self, layer: nn.Linear, add: Add) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.add = add

    def forward(self, hidden: Tensor) -> Tensor:
        product = self.add(F.linear(hidden, self.weight))
        return product if self.bias is None else product + self.bias


class RankHead(nn.Module):
    """The output layer, of which each rank has the rows of its ids; ``score`` has all ranks compute theirs."""

    def __init__(self, weight_UE: nn.Parameter, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = weight_UE
        self.score = score

    def forward(self, hidden_ME: Tensor) -> Tensor:
        """Return the logits of all ids, [M, V]."""
        return self.score(hidden_ME)

    def own_logits(self, hidden_ME: Tensor) -> Tensor:
        """Return the logits of this rank's ids, [M, U]."""
        return F.linear(hidden_ME, self.weight)


def use_slices(model: Any, ranks: SliceRanks, *, add: Add, score: Callable[[Tensor], Tensor]) -> None:
    """Let the layers of a model, whose weights are this rank's slices, compute together with those of other ranks.

    ``add`` sums over ranks; ``score`` returns the logits of all of them.
    """
    bare = model.model
    bare.embed_tokens = RankEmbedding(bare.embed_tokens.weight, ranks, add)
    for layer in bare.layers:
        layer.self_attn.o_proj = RankProjection(layer.self_attn.o_proj, add)
        layer.mlp.down_proj = RankProjection(layer.mlp.down_proj, add)
    model.lm_head = RankHead(model.lm_head.weight, score)
    bare._num_head_parts = ranks.count
