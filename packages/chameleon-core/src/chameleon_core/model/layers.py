"""The layers of the transformer: norms, attention, feed-forward and the two residual orders.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, E hidden width.
Parameter names are those of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chameleon_backends import AttentionBackend, WeightsBackend

from ..config import ChameleonConfig
from .cache import KVCache
from .rope import Rotation, rotate

QK_NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Pass:
    """What all layers of one forward pass share."""

    rotation: Rotation
    backend: AttentionBackend
    prepared: Any
    cache: KVCache | None
    attentions: list[Tensor] | None
    """Where the layers leave their attention weights [B, H, T, S] when they were asked for."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation that ``ChameleonConfig.hidden_act`` names: a function of ``torch.nn.functional``."""
    if name == "gelu_pytorch_tanh":
        return partial(F.gelu, approximate="tanh")
    return getattr(F, name)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the hidden width, with statistics in float32 and the weight in the model's dtype."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden_BTE: Tensor) -> Tensor:
        normed_BTE = F.rms_norm(hidden_BTE.float(), hidden_BTE.shape[-1:], eps=self.epsilon)
        return normed_BTE.to(hidden_BTE.dtype) * self.weight


class HeadNorm(nn.Module):
    """qk-norm: a LayerNorm over each head's width, with a weight and a bias of shape (heads, head_dim).

    Each model-parallel shard trained a norm of its own, so heads don't share one (Chameleon, section 2.3).
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, head_dim))

    def forward(self, states_BTHD: Tensor) -> Tensor:
        return F.layer_norm(states_BTHD, states_BTHD.shape[-1:], eps=QK_NORM_EPSILON) * self.weight + self.bias


class Attention(nn.Module):
    """Self-attention with grouped key/value heads, qk-norm and RoPE."""

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

    def forward(self, hidden_BTE: Tensor, run: Pass) -> Tensor:
        query_BTHD = self._heads(self.q_proj(hidden_BTE))
        key_BTKD = self._heads(self.k_proj(hidden_BTE))
        value_BTKD = self._heads(self.v_proj(hidden_BTE))
        query_BTHD = rotate(self.q_norm(query_BTHD), run.rotation)
        key_BSKD = rotate(self.k_norm(key_BTKD), run.rotation)
        value_BSKD = value_BTKD
        if run.cache is not None:
            key_BSKD, value_BSKD = run.cache.update(self.layer_index, key_BSKD, value_BSKD)
        if run.attentions is not None and isinstance(run.backend, WeightsBackend):
            run.attentions.append(run.backend.weights(query_BTHD, key_BSKD, run.prepared, scale=self.scale))
        dropout = self.dropout if self.training else 0.0
        out_BTHD = run.backend.attend(query_BTHD, key_BSKD, value_BSKD, run.prepared, scale=self.scale, dropout=dropout)
        return self.o_proj(out_BTHD.flatten(-2))

    def _heads(self, states_BTE: Tensor) -> Tensor:
        return states_BTE.view(*states_BTE.shape[:-1], -1, self.head_dim)


class FeedForward(nn.Module):
    """SwiGLU: ``down(activation(gate(x)) * up(x))``."""

    def __init__(self, config: ChameleonConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = activation(config.hidden_act)

    def forward(self, hidden_BTE: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTE)) * self.up_proj(hidden_BTE))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each with a norm and a residual.

    The norm comes before the branch, or with ``swin_norm`` inside it after the branch's work (the 34B model), under
    the same parameter names.

    ``residual_dropout`` drops what the branches add, in training only. It belongs to a run of training, which sets it,
    and not to the model: the reference's config has no field for it.
    """

    def __init__(self, config: ChameleonConfig, layer_index: int) -> None:
        super().__init__()
        self.swin_norm = config.swin_norm
        self.residual_dropout = 0.0
        self.self_attn = Attention(config, layer_index)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_BTE: Tensor, run: Pass) -> Tensor:
        if self.swin_norm:
            hidden_BTE = hidden_BTE + self._drop(self.input_layernorm(self.self_attn(hidden_BTE, run)))
            return hidden_BTE + self._drop(self.post_attention_layernorm(self.mlp(hidden_BTE)))
        hidden_BTE = hidden_BTE + self._drop(self.self_attn(self.input_layernorm(hidden_BTE), run))
        return hidden_BTE + self._drop(self.mlp(self.post_attention_layernorm(hidden_BTE)))

    def _drop(self, branch_BTE: Tensor) -> Tensor:
        return F.dropout(branch_BTE, self.residual_dropout) if self.training else branch_BTE
