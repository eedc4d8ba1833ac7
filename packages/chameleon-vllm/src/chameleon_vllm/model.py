"""The transformer in vLLM: its Llama, with qk-norm per head and swin_norm. Importing this module imports vLLM.

Shapes: M flattened positions of all requests, H heads, D head width, E hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaModel

from chameleon_core import ChameleonConfig

from .head_shards import local_heads
from .support import check_supported

QK_NORM_EPSILON = 1e-5
IMAGE_TOKENIZER = "model.vqmodel."
"""What the names of the image tokenizer's weights begin with, which runs in front of the engine."""


class HeadNorm(nn.Module):
    """qk-norm: a LayerNorm over each head's width, with the parameters of the heads that this rank has.

    ``replicated`` heads, those of keys, are on several ranks where there are more ranks than heads.
    """

    def __init__(self, total_heads: int, head_dim: int, *, replicated: bool) -> None:
        super().__init__()
        ranks = get_tensor_model_parallel_world_size()
        self.heads = local_heads(total_heads, get_tensor_model_parallel_rank(), ranks, replicated=replicated)
        self.weight = nn.Parameter(torch.ones(len(self.heads), head_dim), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(self.heads), head_dim), requires_grad=False)
        for parameter in (self.weight, self.bias):
            parameter.weight_loader = self._load  # type: ignore[attr-defined]  # where vLLM looks for it

    def forward(self, states_MX: Tensor) -> Tensor:
        states_MHD = states_MX.view(*states_MX.shape[:-1], *self.weight.shape)
        normed_MHD = F.layer_norm(states_MHD, states_MHD.shape[-1:], eps=QK_NORM_EPSILON) * self.weight + self.bias
        return normed_MHD.flatten(-2)

    def _load(self, parameter: Tensor, loaded_HD: Tensor) -> None:
        parameter.data.copy_(loaded_HD[self.heads.start : self.heads.stop])


class ChameleonAttention(LlamaAttention):
    """Llama's attention with qk-norm before the rotary embedding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_norm = HeadNorm(self.total_num_heads, self.head_dim, replicated=False)
        self.k_norm = HeadNorm(self.total_num_kv_heads, self.head_dim, replicated=True)

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        query, key, value = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        query, key = self.rotary_emb(positions, self.q_norm(query), self.k_norm(key))
        output, _ = self.o_proj(self.attn(query, key, value))
        return output


class ChameleonDecoderLayer(LlamaDecoderLayer):
    """Llama's layer, or with ``swin_norm`` one whose norms follow attention and the feed-forward layer."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        super().__init__(vllm_config, prefix, config, attn_layer_type=ChameleonAttention)
        self.swin_norm = bool((config or vllm_config.model_config.hf_config).swin_norm)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.swin_norm:
            return super().forward(positions, hidden_states, residual)
        if residual is not None:
            hidden_states = hidden_states + residual
        attended = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states = hidden_states + self.input_layernorm(attended)
        # The residual is added by the next layer, or by the last norm.
        return self.post_attention_layernorm(self.mlp(hidden_states)), hidden_states


class ChameleonModel(LlamaModel):
    """Llama's layers, for which no id is outside of the vocabulary.

    Without a tokenizer vLLM doesn't check the ids of a prompt, and one that has no embedding would end the engine with
    all requests. The row of such a prompt is ended by ``RowProcessor``.
    """

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return super().embed_input_ids(input_ids.clamp(0, self.vocab_size - 1))


class ChameleonForConditionalGeneration(LlamaForCausalLM):
    """The transformer with its output layer.

    Raises ``ConfigError`` for what it can't compute as chameleon_core does.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        source = str(vllm_config.model_config.model)
        check_supported(ChameleonConfig.from_pretrained(source), source)
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=ChameleonDecoderLayer)

    def _init_model(
        self, vllm_config: VllmConfig, prefix: str = "", layer_type: type[nn.Module] = ChameleonDecoderLayer
    ) -> ChameleonModel:
        return ChameleonModel(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all weights but those of the image tokenizer."""
        own = ((name, weight) for name, weight in weights if not name.startswith(IMAGE_TOKENIZER))
        return super().load_weights(own)
