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
import torch.nn.functional as F
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
        qk_1MXD = qkv_1MXD[:, :, :keys]
        if self.qk_norm is not None:
            weight_XD, bias_XD = self.qk_norm
            normed_1MXD = F.layer_norm(qk_1MXD, qk_1MXD.shape[-1:], eps=QK_NORM_EPSILON)
            qk_1MXD = torch.addcmul(bias_XD, normed_1MXD, weight_XD)
        rolled_1MXD = qk_1MXD.roll(self.head_dim // 2, dims=-1)
        qk_1MXD = (qk_1MXD * context.rotary.cos_BT1D).addcmul_(rolled_1MXD, context.rotary.sin_BT1D)
        out_1MHD = context.attend(
            index,
            qk_1MXD[:, :, :queries],
            qk_1MXD[:, :, queries:],
            qkv_1MXD[:, :, keys:],
            scale=self.head_dim**-0.5,
            dropout=0.0,
        )
        hidden_ME = torch.addmm(hidden_ME, out_1MHD.reshape(len(hidden_ME), -1), self.out_OE)
        gate_up_MO = torch.mm(_normed(hidden_ME, self.mlp_epsilon_11), self.gate_up_EO)
        gate_MF, up_MF = gate_up_MO.chunk(2, dim=-1)
        return torch.addmm(hidden_ME, self.activation(gate_MF).mul_(up_MF), self.down_FE)


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayers:
    """Copies of all layers and of the norm after them."""

    layers: Sequence[PackedLayer]
    epsilon_11: Tensor
    weight_E: Tensor

    @classmethod
    def of(cls, layers: Sequence[DecoderLayer], norm: RMSNorm) -> Self:
        """Copy layers and the norm after them."""
        weight_E = norm.weight * norm.weight.shape[0] ** 0.5
        return cls([PackedLayer.of(layer) for layer in layers], _epsilon(norm), weight_E)

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
            hidden_ME = layer.run(hidden_ME, context, index)
        return _normed(hidden_ME, self.epsilon_11).mul_(self.weight_E)


class LayerPacker:
    """Packs the layers of one model, and keeps the copies from one generation to the next while nothing changes."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole, because two threads may generate at the same time.
        self._kept: tuple[Tensor, PackedLayers] | None = None

    def __deepcopy__(self, memo: object) -> LayerPacker:
        return LayerPacker()

    def __reduce__(self) -> tuple[type[LayerPacker], tuple[()]]:
        return LayerPacker, ()

    @torch.no_grad()
    def packed(self, model: nn.Module, layers: Sequence[DecoderLayer], norm: RMSNorm) -> PackedLayers | None:
        """Return the layers of a model packed as they are now; None where they must run themselves.

        That is so where packing doesn't pay, and where a layer does more than its weights say: it is trained,
        quantized, adapted, wrapped or hooked. A weight may change in ways that leave no trace (``weight.data``), so
        each call multiplies them with a fixed vector and compares the products with those of what was copied.
        """
        if model.training or not _runs_itself(model) or not all(_is_plain(module) for module in (*layers, norm)):
            self._kept = None
            return None
        weights = [*norm.parameters(), *(weight for layer in layers for weight in layer.parameters())]
        if sum(weight.numel() for weight in weights) > MAX_ELEMENTS or not all(map(_is_copied, weights)):
            self._kept = None
            return None
        fixed = torch.arange(max(weight.shape[-1] for weight in weights)).cos()
        checksums = torch.cat([(weight @ fixed[: weight.shape[-1]]).view(-1) for weight in weights])
        kept = self._kept
        if kept is None or not torch.equal(kept[0], checksums):
            kept = self._kept = checksums, PackedLayers.of(layers, norm)
        return kept[1]


_PLAIN = {DecoderLayer, Attention, FeedForward, RMSNorm, HeadNorm, nn.Linear, nn.Identity}


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer is as this package makes it, with everything in it."""
    if any(type(each) not in _PLAIN or not _runs_itself(each) for each in module.modules()):
        return False
    biased = any(each.bias is not None for each in _linears(module))
    return not biased and not (isinstance(module, DecoderLayer) and module.swin_norm)


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
