"""A model whose weights, gradients and optimizer state are divided among ranks, by FSDP2 (``fully_shard``).

Each rank keeps a part of each tensor (a ``DTensor``). A layer's weights are gathered while it runs, and its gradients
are added over all ranks as soon as they exist, each rank keeping those of its part.
"""

from __future__ import annotations

from torch.distributed.fsdp import FSDPModule, fully_shard

from chameleon_backends import QuantizedLinear

from ..divided import any_divided
from ..errors import ConfigError
from .objective import Objective
from .ranks import DATA, Ranks


def shard(objective: Objective, ranks: Ranks) -> None:
    """Divide the weights of ``objective`` among ``ranks``, in place. Each rank must have the same weights before.

    Raises ``ConfigError`` where the model is quantized or was divided before.
    """
    model = objective.model
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise ConfigError(
            "the model is quantized, and its weights can't be divided among ranks. Train it in one process, or load it "
            "without quantization."
        )
    if any_divided(model.parameters()):
        raise ConfigError(
            "the weights of this model are divided among ranks by another trainer. Write them with its "
            "save_pretrained, and train a model that is loaded from there."
        )
    assert ranks.mesh is not None
    mesh = ranks.mesh[DATA]
    for module in (*model.model.layers, objective):
        sharded: FSDPModule = fully_shard(module, mesh=mesh)
        # Gradients are those of the sum over all documents, whose divisor is the trainer's.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
