"""What ranks send each other in a training step: each kind of message, how large it is and how often it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .clusters import Cluster
from .memory import rank_weights
from .parallelism import REDUCED_BYTES, Parallelism, Workload
from .shape import Shape

Phase = Literal["forward", "backward", "ends"]
Operation = Literal["all-gather", "reduce-scatter", "all-reduce"]
# A ring of r ranks sends the whole tensor but one part of r; an all-reduce is a reduce-scatter and an all-gather.
TURNS = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}


@dataclass(frozen=True, slots=True)
class Message:
    """A collective operation of a step, by rings, over the groups or over the ranks of a group."""

    phase: Phase
    """When: in the forward or backward pass, beside its products, or at their beginning and end, beside none."""
    what: str
    """What is sent."""
    operation: Operation
    """How."""
    over: Literal["data", "tensor"]
    """The ranks that take part: those with the same part of each group, or those of one group."""
    size: float
    """Bytes of the whole tensor, of which ranks have parts or copies."""
    count: float
    """How often a step does it."""

    def sent(self, parallelism: Parallelism) -> float:
        """Return the bytes that a rank sends in a step."""
        return self.count * self._sent_once(parallelism)

    def seconds(self, parallelism: Parallelism, cluster: Cluster) -> float:
        """Return the seconds that it takes in a step, if nothing else is sent meanwhile.

        A ring that stays within a node sends by its links. One through several nodes has a hop between each two; as
        many rings as it has ranks in a node run at once, each by another network card.
        """
        ranks = self._ranks(parallelism)
        if ranks == 1:
            return 0.0
        stride = 1 if self.over == "tensor" else parallelism.tensor
        in_node = min(ranks, max(1, cluster.per_node // stride))
        nodes = -(-ranks // in_node)
        bandwidth = cluster.link if nodes == 1 else min(cluster.link, in_node * cluster.network)
        between = 0 if nodes == 1 else nodes - 1
        hops = (ranks - 1 - between) * cluster.link_latency + between * cluster.network_latency
        return self.count * (self._sent_once(parallelism) / bandwidth + TURNS[self.operation] * hops)

    def _ranks(self, parallelism: Parallelism) -> int:
        return parallelism.tensor if self.over == "tensor" else parallelism.data

    def _sent_once(self, parallelism: Parallelism) -> float:
        ranks = self._ranks(parallelism)
        return TURNS[self.operation] * self.size * (ranks - 1) / ranks


def data_messages(shape: Shape, parallelism: Parallelism, work: Workload) -> list[Message]:
    """Return what FSDP sends: the weights of each layer twice a pass, those of the rest once, and all gradients."""
    if parallelism.data == 1:
        return []
    whole = rank_weights(shape, parallelism.tensor)
    outer = shape.outer_weights / parallelism.tensor + shape.hidden
    layer = (whole - outer) / shape.layers
    weights, reduced, passes = work.product_bytes, REDUCED_BYTES, work.passes
    layers = shape.layers * passes
    return [
        Message("ends", "weights of the rest", "all-gather", "data", weights * outer, passes),
        Message("forward", "weights of a layer", "all-gather", "data", weights * layer, layers),
        Message("backward", "weights of a layer", "all-gather", "data", weights * layer, layers),
        Message("backward", "gradients of a layer", "reduce-scatter", "data", reduced * layer, layers),
        Message("ends", "gradients of the rest", "reduce-scatter", "data", reduced * outer, passes),
    ]


def tensor_messages(shape: Shape, parallelism: Parallelism, work: Workload) -> list[Message]:
    """Return what the ranks of a group send: the states of all positions around each branch, and their gradients.

    Where a layer is recomputed, its last sum is computed again only if a norm follows it.
    """
    if parallelism.tensor == 1:
        return []
    passes = work.passes
    branches = 2 * shape.layers * passes
    again = work.recomputed * shape.layers * passes
    sums_again = (2 if shape.swin_norm else 1) * again
    states = work.positions * work.product_bytes * shape.hidden
    statistics = Message("forward", "statistics of the loss", "all-reduce", "tensor", 4 * work.positions, 3 * passes)

    def sent(phase: Phase, what: str, operation: Operation, count: float) -> Message:
        return Message(phase, what, operation, "tensor", states, count)

    if not parallelism.sequence:
        return [
            sent("forward", "embeddings", "all-reduce", passes),
            sent("forward", "results of a branch", "all-reduce", branches),
            statistics,
            sent("backward", "gradients of the output layer", "all-reduce", passes),
            sent("backward", "results of a branch, again", "all-reduce", sums_again),
            sent("backward", "gradients of a branch", "all-reduce", branches),
        ]
    norms = Message("ends", "gradients of norms", "all-reduce", "tensor", REDUCED_BYTES * shape.norm_weights, passes)
    return [
        sent("forward", "embeddings", "reduce-scatter", passes),
        sent("forward", "states before a branch or the output layer", "all-gather", branches + passes),
        sent("forward", "results of a branch", "reduce-scatter", branches),
        statistics,
        sent("backward", "states before a branch, again", "all-gather", 2 * again),
        sent("backward", "results of a branch, again", "reduce-scatter", sums_again),
        sent("backward", "gradients of results and embeddings", "all-gather", branches + passes),
        sent("backward", "gradients before a branch or the output layer", "reduce-scatter", branches + passes),
        norms,
    ]
