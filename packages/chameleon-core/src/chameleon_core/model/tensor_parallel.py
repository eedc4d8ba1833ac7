"""Tensor parallelism: the layers of a model divided among ranks, by DTensor's ``parallelize_module``.

Attention is divided by heads, the qk-norm of each with it, the feed-forward by its inner width, and the embeddings and
the output layer by the rows of the vocabulary. Between these, hidden states are whole on each rank, and so is what is
computed from them alone: norms and residuals.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from ..errors import ConfigError
from .conditional_generation import ChameleonForConditionalGeneration
from .division import check_divides

_ATTENTION, _FEED_FORWARD = "model.layers.*.self_attn", "model.layers.*.mlp"
_HEADS_OF_BTHD = 2


class NormParallel(ParallelStyle):
    """A norm whose weights are placed as ``parameters`` says, and its input and output as ``states`` does."""

    def __init__(self, *, parameters: Placement, states: Placement) -> None:
        super().__init__()
        self.parameters = parameters
        self.states = states

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, self._partition, self._enter, self._leave)

    def _partition(self, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            divided = distribute_tensor(parameter, mesh, [self.parameters], src_data_rank=self.src_data_rank)
            module.register_parameter(key, nn.Parameter(divided, requires_grad=parameter.requires_grad))

    def _enter(self, module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh) -> Any:
        return DTensor.from_local(inputs[0], mesh, [self.states], run_check=False)

    def _leave(self, module: nn.Module, output: DTensor, mesh: DeviceMesh) -> Any:
        return output.to_local()


def parallelize(model: ChameleonForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Divide a model, whose weights are the same on each rank, among the ranks of a mesh of one dimension, in place.

    Nothing is sent: each rank keeps its part of what it has. Raises ``ConfigError`` where the sizes of the model aren't
    multiples of the number of ranks, and where its layers are quantized, adapted or wrapped.
    """
    check_divides(model.config, mesh.size())
    for name, module in model.named_modules():
        plain = type(module).__module__.startswith(("torch.nn.modules.", "chameleon_core.model."))
        if not plain:
            raise ConfigError(
                f"the layer {name} is a {type(module).__name__}, which can't be divided among ranks. Tensor "
                "parallelism takes plain layers: without adapters, quantization and layers that train in part."
            )
    whole = NormParallel(parameters=Replicate(), states=Replicate())
    plan: dict[str, ParallelStyle] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
        "model.layers.*.input_layernorm": whole,
        "model.layers.*.post_attention_layernorm": whole,
        "model.norm": whole,
        "lm_head": ColwiseParallel(output_layouts=Replicate()),
        # The layers that read the same hidden states share one exchange of their gradient.
        _ATTENTION: _whole_input(None),
        _FEED_FORWARD: _whole_input(),
        **{f"{_ATTENTION}.{name}_proj": ColwiseParallel() for name in "qkv"},
        f"{_ATTENTION}.o_proj": RowwiseParallel(),
        f"{_FEED_FORWARD}.gate_proj": ColwiseParallel(),
        f"{_FEED_FORWARD}.up_proj": ColwiseParallel(),
        f"{_FEED_FORWARD}.down_proj": RowwiseParallel(),
    }
    if model.config.qk_norm:
        by_heads = NormParallel(parameters=Shard(0), states=Shard(_HEADS_OF_BTHD))
        plan |= {f"{_ATTENTION}.{name}_norm": by_heads for name in "qk"}
    parallelize_module(model, mesh, plan, src_data_rank=None)
    model.tie_weights()
    model.model._num_head_parts = mesh.size()


def _whole_input(*others: None) -> PrepareModuleInput:
    """Return the style of a module whose first input is whole on each rank, and whose ``others`` are no tensors."""
    layouts = (Replicate(), *others)
    return PrepareModuleInput(input_layouts=layouts, desired_input_layouts=layouts)
