"""The layers of a small float32 model on a CPU as generation runs them: few kernels, over the weights as they are.

A step of a small model takes as long as its kernels take to call. So layers that read the same hidden states are one
product over their joined weights, residuals are added in place by the products, and norms are three kernels.

Shapes: M flattened positions of all lanes, P these and what fills them up, H heads, K key/value heads, X query and key
heads together, D head width, E hidden width, Y hidden width with the columns of the norms, F width of the feed-forward,
O outputs of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._cpu_caches import filling_of, read_first
from .joined_weights import MAX_ELEMENTS
from .layers import QK_NORM_EPSILON, Attention, DecoderLayer, FeedForward, HeadNorm, RMSNorm

if TYPE_CHECKING:
    from .lane_attention import LaneContext

_COLUMNS = 16
"""How many columns hold what norms add to the squares of hidden states: rows begin where vectors of numbers may."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    """A layer's weights, of which the products that read the same hidden states are one."""

    attention_norm_E: Tensor
    """The weight of the norm before the attention, times √E."""
    qkv: tuple[Tensor, ...]
    """Queries, keys and values, [O, E] of all or of each."""
    head_dim: int
    heads: tuple[int, int]
    """X of queries and keys, K of values."""
    qk_heads: tuple[int, int]
    """H of queries, K of keys."""
    scale: float
    qk_norm: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None
    """The weight and the bias of queries and keys, [X, D] of all or of each; None without qk-norm."""
    out_OE: Tensor
    mlp_norm_E: Tensor
    """The weight of the norm before the feed-forward, times √E."""
    gate_up: tuple[Tensor, ...]
    """[O, E] of both or of each."""
    widths: tuple[int, int]
    """F of gate and of up."""
    activation: Callable[[Tensor], Tensor]
    down_FE: Tensor

    @classmethod
    def of(cls, layer: DecoderLayer) -> Self:
        """Return a layer over the memory of its weights."""
        attention, mlp = layer.self_attn, layer.mlp
        has_norms = isinstance(attention.q_norm, HeadNorm)
        queries, keys = (each.out_features // attention.head_dim for each in (attention.q_proj, attention.k_proj))
        width = mlp.up_proj.out_features
        return cls(
            attention_norm_E=_norm_weight(layer.input_layernorm),
            qkv=attention.in_order(Attention.QKV),
            head_dim=attention.head_dim,
            heads=(queries + keys, keys),
            qk_heads=(queries, keys),
            scale=attention.scale,
            qk_norm=(attention.in_order(Attention.NORM_WEIGHTS), attention.in_order(Attention.NORM_BIASES))
            if has_norms
            else None,
            out_OE=attention.o_proj.weight.detach().t(),
            mlp_norm_E=_norm_weight(layer.post_attention_layernorm),
            gate_up=mlp.in_order(FeedForward.GATE_UP),
            widths=(width, width),
            activation=mlp.activation,
            down_FE=mlp.down_proj.weight.detach().t(),
        )

    def run_(self, states_PY: Tensor, num_positions: int, context: LaneContext, index: int) -> None:
        """Run the layer, the one of this index, on hidden states in place, M of positions and what fills them up."""
        hidden_PE = states_PY.narrow(1, 0, states_PY.shape[1] - _COLUMNS)
        qkv_MO = _first(_product(_normed(states_PY, hidden_PE, self.attention_norm_E), self.qkv), num_positions)
        qkv_1MXD = qkv_MO.view(1, num_positions, -1, self.head_dim)
        # split_with_sizes is one call, and cheaper than chunk and split.
        qk_1MXD, value_1MKD = qkv_1MXD.split_with_sizes(self.heads, 2)
        if self.qk_norm is not None:
            weight_XD, bias_XD = map(_whole, self.qk_norm)
            # The values are normed, too, and left out: to copy the queries and keys first takes longer.
            normed_1MXD = torch.layer_norm(qkv_1MXD, (self.head_dim,), None, None, QK_NORM_EPSILON)
            qk_1MXD = torch.addcmul(bias_XD, normed_1MXD.narrow(2, 0, self.heads[0]), weight_XD)
        rolled_1MXD = qk_1MXD.roll(self.head_dim // 2, dims=-1)
        qk_1MXD = (qk_1MXD * context.rotary.cos_BT1D).addcmul_(rolled_1MXD, context.rotary.sin_BT1D)
        query_1MHD, key_1MKD = qk_1MXD.split_with_sizes(self.qk_heads, 2)
        out_1MHD = context.attend(index, query_1MHD, key_1MKD, value_1MKD, scale=self.scale, dropout=0.0)
        _add_product_(_first(hidden_PE, num_positions), out_1MHD.reshape(num_positions, -1), self.out_OE)
        gate_up_PO = _product(_normed(states_PY, hidden_PE, self.mlp_norm_E), self.gate_up)
        gate_PF, up_PF = gate_up_PO.split_with_sizes(self.widths, 1)
        _add_product_(hidden_PE, self.activation(gate_PF).mul_(up_PF), self.down_FE)


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayers:
    """Layers as passes over lanes run them, and the norm after them."""

    layers: Sequence[PackedLayer | DecoderLayer]
    """What is packed, and in their order the layers that must run themselves."""
    epsilon: float
    """What all norms add to the mean of the squares."""
    weight_E: Tensor
    """The weight of the norm after the layers, times √E."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, layers: Sequence[DecoderLayer], norm: RMSNorm) -> Self | None:
        """Return the layers of a model as they are now; None where all must run themselves.

        A layer does so where it does more than its weights say: it is quantized, adapted, wrapped or hooked. All do
        where the model is trained, or too large for that to pay.
        """
        if model.training or not _runs_itself(model) or not _is_plain(norm):
            return None
        plain = [_is_plain(layer) and _epsilons(layer) == {norm.epsilon} for layer in layers]
        known = [norm, *(layer for layer, packs in zip(layers, plain, strict=True) if packs)]
        weights = [weight for each in known for weight in each.parameters()]
        if not any(plain) or sum(weight.numel() for weight in weights) > MAX_ELEMENTS or not all(map(_packs, weights)):
            return None
        packed = [PackedLayer.of(layer) if packs else layer for layer, packs in zip(layers, plain, strict=True)]
        return cls(packed, norm.epsilon, _norm_weight(norm))

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
        num_positions, width = hidden_ME.shape
        # The squares of the columns are what a norm adds, so that the length of a row is the norm's divisor.
        added = (width * self.epsilon / _COLUMNS) ** 0.5
        # A row that only fills up is as finite as the others.
        states_PY = F.pad(hidden_ME, (0, _COLUMNS, 0, filling_of(num_positions)), value=added)
        hidden_ME = _first(states_PY.narrow(1, 0, width), num_positions)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, PackedLayer):
                layer.run_(states_PY, num_positions, context, index)
            else:  # which may keep what it is given
                hidden_ME.copy_(layer(hidden_ME.clone()[None], context)[0])
        return _normed(_first(states_PY, num_positions), hidden_ME, self.weight_E)


_PLAIN = {DecoderLayer, Attention, FeedForward, RMSNorm, HeadNorm, nn.Linear, nn.Identity}


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer is as this package makes it, with everything in it."""
    if any(type(each) not in _PLAIN or not _runs_itself(each) for each in module.modules()):
        return False
    biased = any(each.bias is not None for each in _linears(module))
    return not biased and not (isinstance(module, DecoderLayer) and module.swin_norm)


def _epsilons(layer: DecoderLayer) -> set[float]:
    return {layer.input_layernorm.epsilon, layer.post_attention_layernorm.epsilon}


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    return (each for each in module.modules() if isinstance(each, nn.Linear))


def _runs_itself(module: nn.Module) -> bool:
    """Return whether nothing is called in the place of a module's ``forward``, before it or after it."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    replaced = "forward" in vars(module) or vars(module).get("_compiled_call_impl") is not None
    has_global_hooks = nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]  # torch's
    return not (any(hooks) or replaced or has_global_hooks)


def _packs(weight: nn.Parameter) -> bool:
    """Return whether products can read a weight as it is: plain numbers in memory."""
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _norm_weight(norm: RMSNorm) -> Tensor:
    return norm.weight * norm.weight.shape[0] ** 0.5


def _first(rows: Tensor, count: int) -> Tensor:
    """Return the first rows."""
    return rows if len(rows) == count else rows.narrow(0, 0, count)


def _product(hidden_PE: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Return the products with weights, [P, O] of all of them."""
    products = [_one_product(hidden_PE, weight_OE) for weight_OE in weights]
    return products[0] if len(products) == 1 else torch.cat(products, dim=1)


def _one_product(hidden_PE: Tensor, weight_OE: Tensor) -> Tensor:
    read_first(weight_OE)
    return torch.mm(hidden_PE, weight_OE.t())


def _add_product_(hidden_PE: Tensor, inner_PF: Tensor, weight_FE: Tensor) -> None:
    """Add a product to hidden states, in place."""
    read_first(weight_FE)
    hidden_PE.addmm_(inner_PF, weight_FE)


def _whole(weights: tuple[Tensor, ...]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _normed(states_PY: Tensor, hidden_PE: Tensor, weight_E: Tensor) -> Tensor:
    """Return hidden states by the lengths of their rows, times a weight."""
    return (hidden_PE / torch.linalg.vector_norm(states_PY, dim=-1, keepdim=True)).mul_(weight_E)
