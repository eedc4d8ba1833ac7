"""The layers of a small float32 model on a CPU as generation runs them: few kernels, over packed copies of the weights.

A step of a small model takes as long as its kernels take to call. So layers that read the same hidden states are one
product, the weights of norms are multiplied into those of the products after them, and residuals are added by the
products. The copies are column-major, which suits the few rows of hidden states that a step has.

Shapes: M flattened positions of all lanes, H heads, K key/value heads, X query and key heads together, D head width, E
hidden width, F width of the feed-forward, O outputs of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from .layers import QK_NORM_EPSILON, Attention, DecoderLayer, FeedForward, HeadNorm, RMSNorm

if TYPE_CHECKING:
    from .lane_attention import LaneContext

MAX_ELEMENTS = 2**24
"""The most that is copied of a model: beyond 64 MiB the time goes into reading weights, in whichever order."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    """Copies of a layer's weights."""

    attention_epsilon_11: Tensor
    """What ``_normed`` adds before the attention."""
    qkv_EO: Tensor
    """Queries, keys and values."""
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    qk_norm: tuple[Tensor, Tensor] | None
    """The weight and the bias of queries and keys, [X, D]; None without qk-norm."""
    out_OE: Tensor
    mlp_epsilon_11: Tensor
    """What ``_normed`` adds before the feed-forward."""
    gate_up_EO: Tensor
    activation: Callable[[Tensor], Tensor]
    down_FE: Tensor

    @classmethod
    def of(cls, layer: DecoderLayer) -> Self:
        """Copy a layer."""
        attention, mlp = layer.self_attn, layer.mlp
        norms = [each for each in (attention.q_norm, attention.k_norm) if isinstance(each, HeadNorm)]
        heads = [each.out_features // attention.head_dim for each in (attention.q_proj, attention.k_proj)]
        return cls(
            attention_epsilon_11=_epsilon(layer.input_layernorm),
            qkv_EO=_packed((attention.q_proj, attention.k_proj, attention.v_proj), layer.input_layernorm),
            num_heads=heads[0],
            num_key_value_heads=heads[1],
            head_dim=attention.head_dim,
            scale=attention.scale,
            qk_norm=(torch.cat([each.weight for each in norms]), torch.cat([each.bias for each in norms]))
            if norms
            else None,
            out_OE=_packed((attention.o_proj,)),
            mlp_epsilon_11=_epsilon(layer.post_attention_layernorm),
            gate_up_EO=_packed((mlp.gate_proj, mlp.up_proj), layer.post_attention_layernorm),
            activation=mlp.activation,
            down_FE=_packed((mlp.down_proj,)),
        )

    def run(self, hidden_ME: Tensor, context: LaneContext, index: int) -> Tensor:
        """Return what the layer, the one of this index, makes of hidden states."""
        queries, keys = self.num_heads, self.num_heads + self.num_key_value_heads
        qkv_MO = torch.mm(_normed(hidden_ME, self.attention_epsilon_11), self.qkv_EO)
        qkv_1MXD = qkv_MO.view(1, len(qkv_MO), -1, self.head_dim)
        qk_1MXD = qkv_1MXD.narrow(2, 0, keys)
        if self.qk_norm is not None:
            weight_XD, bias_XD = self.qk_norm
            # The values are normed, too, and left out: to copy the queries and keys first takes longer.
            normed_1MXD = torch.layer_norm(qkv_1MXD, (self.head_dim,), None, None, QK_NORM_EPSILON).narrow(2, 0, keys)
            qk_1MXD = torch.addcmul(bias_XD, normed_1MXD, weight_XD)
        rolled_1MXD = qk_1MXD.roll(self.head_dim // 2, dims=-1)
        qk_1MXD = (qk_1MXD * context.rotary.cos_BT1D).addcmul_(rolled_1MXD, context.rotary.sin_BT1D)
        out_1MHD = context.attend(
            index,
            qk_1MXD.narrow(2, 0, queries),
            qk_1MXD.narrow(2, queries, self.num_key_value_heads),
            qkv_1MXD.narrow(2, keys, self.num_key_value_heads),
            scale=self.scale,
            dropout=0.0,
        )
        hidden_ME = torch.addmm(hidden_ME, out_1MHD.reshape(len(hidden_ME), -1), self.out_OE)
        gate_up_MO = torch.mm(_normed(hidden_ME, self.mlp_epsilon_11), self.gate_up_EO)
        width = len(self.down_FE)
        gate_MF, up_MF = gate_up_MO.narrow(1, 0, width), gate_up_MO.narrow(1, width, width)  # cheaper than chunk
        return torch.addmm(hidden_ME, self.activation(gate_MF).mul_(up_MF), self.down_FE)


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayers:
    """Copies of layers and of the norm after them."""

    layers: Sequence[PackedLayer | DecoderLayer]
    """Copies, and in their order the layers that must run themselves."""
    epsilon_11: Tensor
    weight_E: Tensor

    @classmethod
    def of(cls, layers: Sequence[DecoderLayer], norm: RMSNorm) -> Self:
        """Copy the layers that are as this package makes them, and the norm after them."""
        weight_E = norm.weight * norm.weight.shape[0] ** 0.5
        return cls([PackedLayer.of(each) if _is_plain(each) else each for each in layers], _epsilon(norm), weight_E)

    def takes(self, weight: Tensor) -> bool:
        """Return whether a pass of a model with this weight can run: float32 on a CPU, without gradients."""
        return (
            weight.dtype == torch.float32
            and weight.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def run(self, hidden_ME: Tensor, context: LaneContext) -> Tensor:
        """Return the final hidden states [M, E]."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, PackedLayer):
                hidden_ME = layer.run(hidden_ME, context, index)
            else:
                hidden_ME = layer(hidden_ME[None], context)[0]
        return _normed(hidden_ME, self.epsilon_11).mul_(self.weight_E)


class LayerPacker:
    """Packs the layers of one model, and keeps the copies from one generation to the next while nothing changes."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole, because two threads may generate at the same time.
        self._kept: tuple[list[object], Tensor, PackedLayers] | None = None

    def __deepcopy__(self, memo: object) -> LayerPacker:
        return LayerPacker()

    def __reduce__(self) -> tuple[type[LayerPacker], tuple[()]]:
        return LayerPacker, ()

    @torch.no_grad()
    def packed(self, model: nn.Module, layers: Sequence[DecoderLayer], norm: RMSNorm) -> PackedLayers | None:
        """Return the layers of a model packed as they are now; None where all must run themselves.

        A layer does so where it does more than its weights say: it is quantized, adapted, wrapped or hooked. All do
        where the model is trained, or packing doesn't pay. A weight may change in ways that leave no trace
        (``weight.data``), so each call multiplies them with a fixed vector and compares the products with those of what
        was copied.
        """
        plain = [layer for layer in layers if _is_plain(layer)]
        if model.training or not _runs_itself(model) or not _is_plain(norm) or not plain:
            self._kept = None
            return None
        weights = [*norm.parameters(), *(weight for layer in plain for weight in layer.parameters())]
        if sum(weight.numel() for weight in weights) > MAX_ELEMENTS or not all(map(_is_copied, weights)):
            self._kept = None
            return None
        fixed = torch.arange(max(weight.shape[-1] for weight in weights)).cos()
        checksums = torch.cat([(weight @ fixed[: weight.shape[-1]]).view(-1) for weight in weights])
        others = [*layers, norm.epsilon, *(value for layer in plain for value in _numbers(layer))]
        kept = self._kept
        if kept is None or kept[0] != others or not torch.equal(kept[1], checksums):
            kept = self._kept = others, checksums, PackedLayers.of(layers, norm)
        return kept[2]


_PLAIN = {DecoderLayer, Attention, FeedForward, RMSNorm, HeadNorm, nn.Linear, nn.Identity}


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer is as this package makes it, with everything in it."""
    if any(type(each) not in _PLAIN or not _runs_itself(each) for each in module.modules()):
        return False
    biased = any(each.bias is not None for each in _linears(module))
    return not biased and not (isinstance(module, DecoderLayer) and module.swin_norm)


def _numbers(layer: DecoderLayer) -> tuple[object, ...]:
    """Return what a layer computes with beside its weights."""
    attention, norms = layer.self_attn, (layer.input_layernorm, layer.post_attention_layernorm)
    return attention.head_dim, attention.scale, layer.mlp.activation, *(norm.epsilon for norm in norms)


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    return (each for each in module.modules() if isinstance(each, nn.Linear))


def _runs_itself(module: nn.Module) -> bool:
    """Return whether nothing is called in the place of a module's ``forward``, before it or after it."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    replaced = "forward" in vars(module) or vars(module).get("_compiled_call_impl") is not None
    has_global_hooks = nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]  # torch's
    return not (any(hooks) or replaced or has_global_hooks)


def _is_copied(weight: nn.Parameter) -> bool:
    """Return whether a copy of a weight has all that it says: plain numbers in memory."""
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _epsilon(norm: RMSNorm) -> Tensor:
    """Return what ``_normed`` adds for a norm."""
    return torch.full((1, 1), (norm.weight.shape[0] * norm.epsilon) ** 0.5)


def _packed(layers: Sequence[nn.Linear], norm: RMSNorm | None = None) -> Tensor:
    """Return the weights of layers side by side in column-major order, [inputs, outputs], times those of a norm."""
    weight_OE = torch.cat([layer.weight for layer in layers])
    if norm is not None:
        weight_OE = weight_OE * (norm.weight * norm.weight.shape[0] ** 0.5)
    return weight_OE.t().contiguous()


def _normed(hidden_ME: Tensor, epsilon_11: Tensor) -> Tensor:
    """Return hidden states by their root of the sum of squares; the mean of them and the weight are in the products."""
    return hidden_ME / torch.hypot(torch.linalg.vector_norm(hidden_ME, dim=-1, keepdim=True), epsilon_11)
