"""The time of a training step: products, what is sent while they wait, what is sent beside them, and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from .clusters import Cluster
from .memory import rank_weights
from .parallelism import REDUCED_BYTES, Parallelism, Workload
from .shape import Shape
from .traffic import Message, Phase

UPDATED = 8
"""Numbers read or written for each weight of a rank: its gradient for the norm of all, then the weight, the gradient
and both moments for the update, and all but the gradient back."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step; a rank spends them one after the other."""

    products: float
    """Products of matrices, at the cluster's efficiency, with what accompanies them on the device."""
    tensor: float
    """What the ranks of a group send each other, since each next product needs it."""
    data: float
    """What the groups send each other and products don't hide: it takes longer, or there are none at that time."""
    optimizer: float
    """The update of the weights."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))


def step_time(
    shape: Shape, cluster: Cluster, parallelism: Parallelism, work: Workload, messages: Iterable[Message]
) -> StepTime:
    """Return the time of a step that sends ``messages``.

    FSDP sends a layer's weights while the layer before computes, and its gradients while the next one does; both take
    turns on the same wires.
    """
    messages = list(messages)
    rate = cluster.device.rate * cluster.efficiency * parallelism.tensor
    rows = work.rows * work.passes
    layers = rows * shape.row_operations(work.length, outputs=0) / rate
    outputs = rows * work.length * 2.0 * shape.table / rate
    # Gradients take twice the products of the forward pass. The loss computes its own in the forward pass.
    products = {"forward": layers + 3 * outputs, "backward": (2 + work.recomputed) * layers}

    def sending(phase: Phase, over: str) -> float:
        return sum(each.seconds(parallelism, cluster) for each in messages if (each.phase, each.over) == (phase, over))

    tensor = {phase: sending(phase, "tensor") for phase in ("forward", "backward")}
    uncovered = sum(
        max(0.0, sending(phase, "data") - products[phase] - tensor[phase]) for phase in ("forward", "backward")
    )
    shard = rank_weights(shape, parallelism.tensor) / parallelism.data
    return StepTime(
        products=sum(products.values()),
        tensor=sum(tensor.values()) + sending("ends", "tensor"),
        data=uncovered + sending("ends", "data"),
        optimizer=UPDATED * REDUCED_BYTES * shard / cluster.device.bandwidth,
    )
