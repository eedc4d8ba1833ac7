"""The plan of a training step on a cluster, and the choice among the ways to divide it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from .clusters import CLUSTERS, Cluster
from .memory import Memory, memory_of_rank
from .parallelism import Parallelism, Workload, divisions
from .shape import Shape
from .step_time import StepTime, step_time
from .traffic import Message, data_messages, tensor_messages

USABLE = 0.9
"""The share of a device's memory that a plan may use; the rest is left to what isn't counted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training step needs: memory, bytes over the wire, time."""

    shape: Shape
    """The model."""
    cluster: Cluster
    """Where it trains."""
    parallelism: Parallelism
    """How ranks divide the step."""
    work: Workload
    """What each group of tensor-parallel ranks computes."""
    memory: Memory
    """Of a rank, at the moment that needs most."""
    messages: tuple[Message, ...]
    """What each rank sends."""
    time: StepTime
    """Of the step."""

    @property
    def ids(self) -> int:
        """The ids of a step, of all groups together."""
        return self.parallelism.data * self.work.passes * self.work.positions

    @property
    def ids_per_second(self) -> float:
        """The ids that a device trains on in a second."""
        return self.ids / self.time.total / self.parallelism.ranks

    @property
    def sent(self) -> float:
        """The bytes that a rank sends in a step."""
        return sum(each.sent(self.parallelism) for each in self.messages)

    @property
    def utilization(self) -> float:
        """The share of the device's rate that the model's own operations use, recomputation not counted."""
        operations = self.ids / self.work.length * 3.0 * self.shape.row_operations(self.work.length)
        return operations / self.parallelism.ranks / self.time.total / self.cluster.device.rate

    @property
    def fits(self) -> bool:
        """Whether a device has the memory, with a tenth of it to spare."""
        return self.memory.total <= USABLE * self.cluster.device.memory


def plan_training(shape: Shape, cluster: Cluster, parallelism: Parallelism, work: Workload | None = None) -> Plan:
    """Return what a training step needs.

    Raises ``ConfigError`` where the ranks can't divide the shape, or a value is impossible.
    """
    work = Workload() if work is None else work
    work.check()
    parallelism.check(shape)
    messages = (*data_messages(shape, parallelism, work), *tensor_messages(shape, parallelism, work))
    return Plan(
        shape,
        cluster,
        parallelism,
        work,
        memory=memory_of_rank(shape, parallelism, work),
        messages=messages,
        time=step_time(shape, cluster, parallelism, work, messages),
    )


def plan_divisions(
    shape: Shape,
    cluster: Cluster,
    devices: int,
    *,
    rows: int = 1,
    length: int = 4096,
    passes: int = 1,
    recomputed: float = 1.0,
    product_bytes: int = 2,
) -> list[Plan]:
    """Return a plan for each way to divide a step among ``devices``, with tensor-parallel groups of up to a node.

    ``rows`` are those of a device in a pass: a group of 4 has 4 times as many, so that all plans train on as many ids
    in a step. Where a group has several ranks, they divide the positions, too. Raises ``ConfigError``.
    """
    if devices < 1:
        raise ConfigError(f"a plan needs at least 1 device; got {devices}.")
    return [
        plan_training(
            shape,
            cluster,
            each,
            Workload(
                rows=rows * each.tensor,
                length=length,
                passes=passes,
                recomputed=recomputed,
                product_bytes=product_bytes,
            ),
        )
        for each in divisions(shape, devices, cluster.per_node)
    ]


def fastest(plans: Sequence[Plan]) -> Plan | None:
    """Return the plan that takes least time for each id among those that fit; None where none does."""
    return max((each for each in plans if each.fits), key=lambda each: each.ids_per_second, default=None)


def find_cluster(device: str) -> Cluster:
    """Return the cluster of a device by its name, in either case. Raises ``ConfigError`` for an unknown one."""
    if device.lower() in CLUSTERS:
        return CLUSTERS[device.lower()]
    close = difflib.get_close_matches(device.lower(), CLUSTERS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"there is no data sheet of a device {device!r}; known are {', '.join(CLUSTERS)}.{hint} "
        "In Python, chameleon_core.planning.Cluster describes any other."
    )
