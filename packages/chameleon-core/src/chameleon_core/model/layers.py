"""The layers of the transformer: norms, attention, feed-forward and the two orders of norm and residual.

Parameter names are those of published checkpoints.

Shapes: B batch, T query length, H heads, K key/value heads, D head width, E hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._moved import moved_names
from ..config import ChameleonConfig
from .attention_context import AttentionContext
from .joined_weights import JoinsWeights, joining_pays
from .lane_attention import LaneContext
from .rope import apply_rotary

if TYPE_CHECKING:
    from .static_cache import StaticContext

QK_NORM_EPSILON = 1e-5


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function that ``ChameleonConfig.hidden_act`` names, one of ``torch.nn.functional``."""
    if name == "gelu_pytorch_tanh":
        return partial(F.gelu, approximate="tanh")
    return getattr(F, name)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the hidden width: statistics in float32, the weight in the model's dtype."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden_BTE: Tensor) -> Tensor:
        normed_BTE = F.rms_norm(hidden_BTE.float(), hidden_BTE.shape[-1:], eps=self.epsilon)
        return normed_BTE.to(hidden_BTE.dtype) * self.weight


class HeadNorm(nn.Module):
    """qk-norm: a LayerNorm over each head's width, with a weight and a bias of shape (heads, head_dim).

    Heads don't share their parameters, because each model-parallel shard was trained with its own (Chameleon paper,
    section 2.3).
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, head_dim))

    def forward(self, states_BTHD: Tensor) -> Tensor:
        return F.layer_norm(states_BTHD, states_BTHD.shape[-1:], eps=QK_NORM_EPSILON) * self.weight + self.bias


class Attention(JoinsWeights):
    """Self-attention with grouped key/value heads, qk-norm and RoPE."""

    QKV: ClassVar = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    NORM_WEIGHTS: ClassVar = ("q_norm.weight", "k_norm.weight")
    NORM_BIASES: ClassVar = ("q_norm.bias", "k_norm.bias")
    groups: ClassVar = (QKV, NORM_WEIGHTS, NORM_BIASES)

    def __init__(self, config: ChameleonConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.dropout = config.attention_dropout
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=config.attention_bias)
        self.q_norm = HeadNorm(config.num_attention_heads, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = HeadNorm(config.num_key_value_heads, config.head_dim) if config.qk_norm else nn.Identity()
        self.join_weights(pays=joining_pays(config))

    @property
    def layer_idx(self) -> int:
        """``layer_index``, as ``transformers`` calls it."""
        return self.layer_index

    def forward(self, hidden_BTE: Tensor, context: AttentionContext | LaneContext | StaticContext) -> Tensor:
        query_BTHD = self._heads(self.q_proj(hidden_BTE))
        key_BTKD = self._heads(self.k_proj(hidden_BTE))
        value_BTKD = self._heads(self.v_proj(hidden_BTE))
        query_BTHD = apply_rotary(self.q_norm(query_BTHD), context.rotary)
        key_BTKD = apply_rotary(self.k_norm(key_BTKD), context.rotary)
        # Under autocast the norms compute in float32; a backend gets one dtype.
        query_BTHD, key_BTKD = query_BTHD.to(value_BTKD.dtype), key_BTKD.to(value_BTKD.dtype)
        dropout = self.dropout if self.training else 0.0
        out_BTHD = context.attend(self.layer_index, query_BTHD, key_BTKD, value_BTKD, scale=self.scale, dropout=dropout)
        return self.o_proj(out_BTHD.flatten(-2))

    def _heads(self, states_BTE: Tensor) -> Tensor:
        return states_BTE.view(*states_BTE.shape[:-1], -1, self.head_dim)


class FeedForward(JoinsWeights):
    """SwiGLU: ``down(activation(gate(x)) * up(x))``."""

    GATE_UP: ClassVar = ("gate_proj.weight", "up_proj.weight")
    groups: ClassVar = (GATE_UP,)

    def __init__(self, config: ChameleonConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = activation(config.hidden_act)
        self.join_weights(pays=joining_pays(config))

    def forward(self, hidden_BTE: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTE)) * self.up_proj(hidden_BTE))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each with a norm and a residual.

    The norm comes before the attention or feed-forward, or with ``config.swin_norm`` after it and before the residual
    is added (the 34B model), under the same parameter names.

    ``residual_dropout`` is the probability of dropping what the two branches add, in training only. The trainer sets
    it; the config of ``transformers`` has no field for it.
    """

    def __init__(self, config: ChameleonConfig, layer_index: int) -> None:
        super().__init__()
        self.swin_norm = config.swin_norm
        self.residual_dropout = 0.0
        self.self_attn = Attention(config, layer_index)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_BTE: Tensor, context: AttentionContext | LaneContext | StaticContext) -> Tensor:
        if self.swin_norm:
            hidden_BTE = hidden_BTE + self._drop(self.input_layernorm(self.self_attn(hidden_BTE, context)))
            return hidden_BTE + self._drop(self.post_attention_layernorm(self.mlp(hidden_BTE)))
        hidden_BTE = hidden_BTE + self._drop(self.self_attn(self.input_layernorm(hidden_BTE), context))
        return hidden_BTE + self._drop(self.mlp(self.post_attention_layernorm(hidden_BTE)))

    def _drop(self, branch_BTE: Tensor) -> Tensor:
        return F.dropout(branch_BTE, self.residual_dropout) if self.training else branch_BTE


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "Pass": "chameleon_core.model.attention_context:AttentionContext",
        },
    )
