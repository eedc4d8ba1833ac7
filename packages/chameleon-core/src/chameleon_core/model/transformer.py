"""The transformer: embed → layers → norm.

Shapes: B batch, T query length, S key length (cached positions and new ones), H heads, K key/value heads,
D head width, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chameleon_backends import AttentionSpec, WeightsBackend, get_attention_backend

from ..config import ChameleonConfig
from .cache import KVCache
from .layers import DecoderLayer, Pass, RMSNorm
from .rope import rotation


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What ``ChameleonModel`` returns."""

    last_hidden_state: Tensor
    """[B, T, E], after the final norm."""
    hidden_states: tuple[Tensor, ...] | None
    """The embeddings and each layer's output, the last one normed, when asked for: L + 1 tensors [B, T, E]."""
    attentions: tuple[Tensor, ...] | None
    """Each layer's attention weights, when asked for: L tensors [B, H, T, S]."""
    cache: KVCache | None


class ChameleonModel(nn.Module):
    """The bare transformer, from ids to hidden states.

    ``attn_implementation`` names an attention backend. Weights are drawn as the reference's config says; to load
    trained ones, use ``ChameleonForConditionalGeneration.from_pretrained``.

    ``gradient_checkpointing`` computes each layer again in the backward pass instead of keeping its inner tensors: the
    same gradients from less memory, for about a third more time.
    """

    def __init__(self, config: ChameleonConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention_backend = get_attention_backend(attn_implementation)
        self.attn_implementation = attn_implementation
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.apply(self._init_weights)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ModelOutput:
        """Hidden states of new positions.

        ``input_ids`` int64 [B, T], or ``inputs_embeds`` [B, T, E]. ``attention_mask`` [B, S] is 1 for real positions
        and 0 for padding, which lies on one side of a row; with a cache it lies on the left, and later passes need no
        mask. ``position_ids`` [B, T] count from a row's first real position unless given. ``document_ids`` [B, S] keep
        attention within equal numbers (packed rows). Raises ``ValueError`` where shapes don't fit.
        """
        hidden_BTE = self._embed(input_ids, inputs_embeds)
        batch_size, query_length, _ = hidden_BTE.shape
        past = 0 if cache is None else cache.length
        key_length = past + query_length
        starts, ends = _padding(attention_mask, batch_size, key_length, cache)
        key_start_B = None if not any(starts) else torch.tensor(starts, device=hidden_BTE.device)
        key_end_B = None if ends is None else torch.tensor(ends, device=hidden_BTE.device)
        if position_ids is None:
            position_ids = torch.arange(past, key_length, device=hidden_BTE.device)[None]
            if key_start_B is not None:
                position_ids = (position_ids - key_start_B[:, None]).clamp(min=0)
        elif position_ids.shape not in ((batch_size, query_length), (1, query_length)):
            raise ValueError(
                f"position_ids must be [{batch_size}, {query_length}] or [1, {query_length}], "
                f"got {list(position_ids.shape)}."
            )
        prepared = self.attention_backend.plan(
            AttentionSpec(
                batch_size=batch_size,
                query_length=query_length,
                key_length=key_length,
                num_heads=self.config.num_attention_heads,
                num_key_value_heads=self.config.num_key_value_heads,
                head_dim=self.config.head_dim,
                dtype=hidden_BTE.dtype,
                device=hidden_BTE.device,
                requires_grad=torch.is_grad_enabled(),
                dropout=self.training and self.config.attention_dropout > 0,
                key_start_B=key_start_B,
                key_end_B=key_end_B,
                document_ids_BS=document_ids,
            )
        )
        if output_attentions and not isinstance(self.attention_backend, WeightsBackend):
            raise ValueError(
                f"the attention backend {self.attn_implementation!r} never holds attention weights; "
                "load the model with attn_implementation='eager' to see them."
            )
        attentions: list[Tensor] | None = [] if output_attentions else None
        run = Pass(
            rotation(self.config, position_ids, hidden_BTE.dtype), self.attention_backend, prepared, cache, attentions
        )

        # A layer that runs twice would also write its keys and its attention weights twice.
        recompute = self.gradient_checkpointing and self.training and cache is None and attentions is None
        hidden_states = [hidden_BTE]
        for layer in self.layers:
            if recompute:
                hidden_BTE = checkpoint(layer, hidden_BTE, run, use_reentrant=False)
            else:
                hidden_BTE = layer(hidden_BTE, run)
            if output_hidden_states:
                hidden_states.append(hidden_BTE)
        hidden_BTE = self.norm(hidden_BTE)

        if cache is not None:
            cache.advance(query_length)
        return ModelOutput(
            last_hidden_state=hidden_BTE,
            hidden_states=(*hidden_states[:-1], hidden_BTE) if output_hidden_states else None,
            attentions=None if attentions is None else tuple(attentions),
            cache=cache,
        )

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """An empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return KVCache(self.config.num_hidden_layers, batch_size, capacity=capacity)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both.")
        if inputs_embeds is not None:
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != self.config.hidden_size:
                raise ValueError(
                    f"inputs_embeds must be [batch, length, {self.config.hidden_size}], is {list(inputs_embeds.shape)}."
                )
            return inputs_embeds
        assert input_ids is not None
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be [batch, length], got {list(input_ids.shape)}.")
        return self.embed_tokens(input_ids)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            draw_weight(module.weight, self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def draw_weight(weight: Tensor, deviation: float) -> None:
    """Draw from a normal distribution that is cut at three deviations."""
    nn.init.trunc_normal_(weight, a=-3, b=3).mul_(deviation)


def _padding(
    attention_mask: Tensor | None, batch_size: int, key_length: int, cache: KVCache | None
) -> tuple[Sequence[int], Sequence[int] | None]:
    """Each row's first real position, and one past its last where some row is padded on the right."""
    if cache is not None and cache.batch_size != batch_size:
        raise ValueError(f"the cache holds {cache.batch_size} rows, the batch has {batch_size}.")
    if attention_mask is None:
        return (cache.starts if cache is not None else (0,) * batch_size), None
    if tuple(attention_mask.shape) != (batch_size, key_length):
        raise ValueError(
            f"attention_mask must be [{batch_size}, {key_length}] (cached and new positions), "
            f"got {list(attention_mask.shape)}."
        )
    real_BS = attention_mask.bool()
    counts = real_BS.sum(dim=1).tolist()
    # argmax finds the first True; a row that has none is padding up to its end.
    starts = real_BS.int().argmax(dim=1).masked_fill(~real_BS.any(dim=1), key_length).tolist()
    spans_BS = torch.arange(key_length, device=real_BS.device)[None]
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    first_B1, last_B1 = torch.tensor(starts).to(real_BS.device)[:, None], torch.tensor(ends).to(real_BS.device)[:, None]
    if not torch.equal(real_BS, (spans_BS >= first_B1) & (spans_BS < last_B1)):
        raise ValueError("attention_mask has holes: each row's real positions must be one run, padded on one side.")
    right_padded = any(end < key_length for end in ends)
    if cache is not None:
        if right_padded:
            raise ValueError("a cache needs padding on the left: new positions follow a row's last one.")
        # A row that was padding so far may start now, or later; one that has started doesn't move.
        if [min(start, cache.length) for start in starts] != [min(start, cache.length) for start in cache.starts]:
            raise ValueError(f"attention_mask starts rows at {starts}, the cache was filled from {list(cache.starts)}.")
        cache.pad(starts)
    return starts, (ends if right_padded else None)
