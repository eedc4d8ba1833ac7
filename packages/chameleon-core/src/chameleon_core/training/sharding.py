"""A model whose weights, gradients and optimizer state are divided among ranks.

Each rank keeps a part of each tensor (a ``DTensor``). By tensor parallelism ranks with the same documents compute parts
of each layer. By FSDP2 (``fully_shard``) ranks with different documents gather a layer's weights while it runs, or what
tensor parallelism leaves them of it, and its gradients are added over them as soon as they exist, each rank keeping
those of its part.
"""

from __future__ import annotations

from torch.distributed.fsdp import FSDPModule, fully_shard

from chameleon_backends import QuantizedLinear

from ..divided import any_divided
from ..errors import ConfigError
from ..model.tensor_parallel import parallelize
from .objective import Objective
from .ranks import DATA, TENSOR, Ranks


def shard(objective: Objective, ranks: Ranks) -> None:
    """Divide the weights of ``objective`` among ``ranks``, in place. Each rank must have the same weights before.

    Raises ``ConfigError`` where the model is quantized or was divided before, and where ranks can't divide its layers.
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
    if ranks.tensor_count > 1:
        parallelize(model, ranks.mesh[TENSOR])
    if ranks.data_count == 1:
        return
    mesh = ranks.mesh[DATA]
    for module in (*model.model.layers, objective):
        sharded: FSDPModule = fully_shard(module, mesh=mesh)
        # Gradients are those of the sum over all documents, whose divisor is the trainer's.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
