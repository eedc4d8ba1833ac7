"""The transformer: embed → layers → norm.

Shapes: B batch, T query length, S key length (cached positions and new ones), M flattened positions of all lanes, H
heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chameleon_backends import AttentionWeightsBackend, get_attention_backend

from ..compat.methods import TransformersMethods
from ..config import ChameleonConfig
from ..errors import InputError
from .attention_context import AttentionContext, prepare_attention
from .cache import KVCache
from .inputs import check_form, check_ids
from .lane_attention import LaneContext, lane_order, plan_lanes
from .lane_cache import CachedLane, LaneCache
from .layers import DecoderLayer, RMSNorm
from .outputs import ModelOutput
from .static_cache import StaticContext, StaticLaneCache


class ChameleonModel(TransformersMethods):
    """The bare transformer, from ids to hidden states.

    ``attn_implementation`` names an attention backend of chameleon-backends. The weights are random, with the standard
    deviation ``config.initializer_range``; to load trained ones, use
    ``ChameleonForConditionalGeneration.from_pretrained``.

    ``gradient_checkpointing`` recomputes each layer in the backward pass instead of keeping its activations: the same
    gradients from less memory, in about a third more time.
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
        lanes: LaneContext | StaticContext | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ModelOutput:
        """Return the hidden states of new positions.

        ``input_ids`` int64 [B, T], or ``inputs_embeds`` [B, T, E]. ``attention_mask`` [B, S] is 1 for real positions
        and 0 for padding, which lies on one side of a row; with a cache it lies on the left, and later passes need no
        mask. ``position_ids`` [B, T] or [1, T] count from a row's first real position unless given. ``document_ids``
        int64 [B, S] restrict attention to positions of the same number (packed rows). ``lanes`` is what ``feed_lanes``
        passes: ``input_ids`` [1, M] are then the new ids of many lanes. Raises ``InputError`` where shapes or types
        don't match, ``VocabularyError`` for ids outside the vocabulary (on a GPU, torch's own error;
        ``ChameleonForConditionalGeneration`` checks first).
        """
        hidden_BTE = self._embed(input_ids, inputs_embeds)
        context = lanes or self._context(
            hidden_BTE, attention_mask, position_ids, document_ids, cache, output_attentions
        )
        hidden_states = [hidden_BTE]
        for layer in self.layers:
            if self.gradient_checkpointing and self.training and context.is_pure:
                hidden_BTE = checkpoint(layer, hidden_BTE, context, use_reentrant=False)
            else:
                hidden_BTE = layer(hidden_BTE, context)
            if output_hidden_states:
                hidden_states.append(hidden_BTE)
        hidden_BTE = self.norm(hidden_BTE)
        if cache is not None:
            cache.advance(hidden_BTE.shape[1])
        return ModelOutput(
            hidden_BTE,
            hidden_states=(*hidden_states[:-1], hidden_BTE) if output_hidden_states else None,
            attentions=None if context.attentions is None else tuple(context.attentions),
            cache=cache,
        )

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """Return an empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return KVCache(self.config.num_hidden_layers, batch_size, capacity=capacity)

    def feed_lanes(
        self,
        feeds: Sequence[tuple[CachedLane, Sequence[int]]],
        cache: LaneCache,
        *,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Feed lanes of a cache new ids and return the final hidden states [M, E], lane after lane.

        ``feeds`` are the lanes with their new ids, at least one each; M is the number of ids in all. ``inputs_embeds``
        [M, E] are fed in the place of the ids' embeddings.
        """
        for lane, ids in feeds:
            cache.reserve(lane, len(ids))
        if isinstance(cache, StaticLaneCache) and inputs_embeds is None:
            hidden_LE = cache.step(self, feeds)
            if hidden_LE is not None:
                return hidden_LE
        order = sorted(range(len(feeds)), key=lambda index: lane_order(feeds[index][0]))
        sorted_feeds = [feeds[index] for index in order]
        counts = [(lane, len(ids)) for lane, ids in sorted_feeds]
        weight = self.embed_tokens.weight
        context = plan_lanes(self.config, self.attention_backend, cache, counts, weight=weight)
        if inputs_embeds is None:
            ids_1M = torch.tensor([[token_id for _, ids in sorted_feeds for token_id in ids]], device=weight.device)
            hidden_ME = self(ids_1M, lanes=context).last_hidden_state[0]
        else:
            own_ME = torch.split(inputs_embeds, [len(ids) for _, ids in feeds])
            sorted_1ME = torch.cat([own_ME[index] for index in order])[None]
            hidden_ME = self(inputs_embeds=sorted_1ME, lanes=context).last_hidden_state[0]
        cache.advance(counts)
        if order == list(range(len(feeds))):
            return hidden_ME
        parts = dict(zip(order, hidden_ME.split([count for _, count in counts]), strict=True))
        return torch.cat([parts[index] for index in range(len(feeds))])

    def decoding_step(self, ids_R1: Tensor, context: StaticContext) -> Tensor:
        """Return the final hidden states [R, 1, E] of a step over a cache ``static``."""
        step = self.__dict__.get("_compiled_step", self._step)
        hidden_R1E: Tensor = step(ids_R1, context)
        return hidden_R1E

    def compile_decoding(self, **options: Any) -> None:
        """Compile the steps of a cache ``static`` by ``torch.compile``, with its options, on first use.

        ``mode="reduce-overhead"`` makes CUDA graphs of them. Other caches have a shape for each length, and their steps
        stay as they are.
        """
        self.__dict__["_compiled_step"] = torch.compile(self._step, **options)

    def _step(self, ids_R1: Tensor, context: StaticContext) -> Tensor:
        return self(ids_R1, lanes=context).last_hidden_state

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds, and not both.")
        if inputs_embeds is not None:
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != self.config.hidden_size:
                raise InputError(
                    f"inputs_embeds must be [batch, length, {self.config.hidden_size}]; "
                    f"got {list(inputs_embeds.shape)}."
                )
            return inputs_embeds
        assert input_ids is not None
        check_form(input_ids)
        try:
            return self.embed_tokens(input_ids)
        except IndexError:  # on a CPU this check is free
            check_ids(input_ids, self.config.vocab_size)
            raise

    def _context(
        self,
        hidden_BTE: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        document_ids: Tensor | None,
        cache: KVCache | None,
        output_attentions: bool,
    ) -> AttentionContext:
        if output_attentions and not isinstance(self.attention_backend, AttentionWeightsBackend):
            raise InputError(
                f"the attention backend {self.attn_implementation!r} never holds attention weights; "
                "load the model with attn_implementation='eager' to see them."
            )
        return prepare_attention(
            self.config,
            self.attention_backend,
            hidden_BTE,
            attention_mask=attention_mask,
            position_ids=position_ids,
            document_ids=document_ids,
            cache=cache,
            attentions=[] if output_attentions else None,
            training=self.training,
        )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init_weight(module.weight, self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_weight(weight: Tensor, std: float) -> None:
    """Fill a weight from a normal distribution, truncated at three standard deviations."""
    nn.init.trunc_normal_(weight, a=-3, b=3).mul_(std)
