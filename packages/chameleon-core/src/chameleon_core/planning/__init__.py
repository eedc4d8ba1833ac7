"""Training on many devices, planned on paper: memory of a rank, bytes over the wire, time of a step.

``plan_training`` computes one plan and ``plan_divisions`` one for each way to divide a step; ``chameleon plan`` prints
them, and ``docs/scaling.md`` states the formulas and what they were compared with. Nothing here imports torch.
"""

from __future__ import annotations

from .clusters import A100, CLUSTERS, H100, H200, Cluster, Device
from .memory import Memory, memory_of_rank
from .parallelism import Parallelism, Workload, tensor_sizes
from .plans import Plan, fastest, find_cluster, plan_divisions, plan_training
from .shape import SHAPES, Shape
from .step_time import StepTime
from .traffic import Message

__all__ = [
    "A100",
    "CLUSTERS",
    "H100",
    "H200",
    "SHAPES",
    "Cluster",
    "Device",
    "Memory",
    "Message",
    "Parallelism",
    "Plan",
    "Shape",
    "StepTime",
    "Workload",
    "fastest",
    "find_cluster",
    "memory_of_rank",
    "plan_divisions",
    "plan_training",
    "tensor_sizes",
]
