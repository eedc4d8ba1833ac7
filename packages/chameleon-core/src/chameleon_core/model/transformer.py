"""The transformer: embed → layers → norm.

Shapes: B batch, T query length, S key length (cached positions and new ones), M flattened positions of all lanes, H
heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from chameleon_backends import AttentionBackend, AttentionWeightsBackend, get_attention_backend

from .._boundary import translates_errors
from ..checkpoints import save_checkpoint
from ..checkpoints.quantization_plan import Quantization
from ..compat.caches import ForeignCache
from ..compat.checkpointing import Checkpointing
from ..compat.forward_arguments import as_requested, is_requested, refuse_forward_arguments
from ..compat.loading import Request, WithoutHead
from ..compat.saving import SaveRequest
from ..config import ChameleonConfig
from ..errors import InputError
from .attention_context import AttentionContext, prepare_attention
from .cache import KVCache
from .compiled_steps import CompiledSteps
from .inputs import check_cache_position, check_form, check_ids
from .joined_weights import join_weights
from .lane_attention import LaneContext, lane_order, plan_lanes
from .lane_cache import CachedLane, LaneCache, make_lane_cache
from .layers import DecoderLayer, RMSNorm
from .outputs import ModelOutput
from .packed_layers import PackedLayers
from .picture_inputs import PictureInputs, PictureReader
from .static_cache import StaticContext, StaticLaneCache

FORWARD_ARGUMENTS = (
    "input_ids",
    "pixel_values",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "inputs_embeds",
    "use_cache",
    "mm_encoder_outputs",
    "document_ids",
    "cache",
    "cache_position",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
)
"""The arguments of ``ChameleonModel.forward`` that users pass."""


class ChameleonModel(CompiledSteps, PictureInputs):
    """The bare transformer, from ids to hidden states.

    ``attn_implementation`` names an attention backend of chameleon-backends. The weights are random, with the standard
    deviation ``config.initializer_range``; ``from_pretrained`` loads trained ones.

    ``gradient_checkpointing`` recomputes each layer in the backward pass instead of keeping its activations: the same
    gradients from less memory, in about a third more time.
    """

    _attn_implementation: str
    attribute_types: ClassVar[Mapping[str, tuple[type, ...]]] = {
        **PictureInputs.attribute_types,
        "attention_backend": (AttentionBackend,),
    }

    def __init__(self, config: ChameleonConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        config.keep_for_a_model(attn_implementation=attn_implementation)
        self.config = config
        self._picture_reader = PictureReader()
        self._use_attention(attn_implementation)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._checkpointing = Checkpointing()
        self._num_head_parts = 1  # tensor parallelism divides the heads
        self.source = None
        self.apply(self._init_weights)
        self._seal()

    @classmethod
    @translates_errors
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] | None = None,
        *,
        dtype: torch.dtype | str | None = "auto",
        device: torch.device | str = "cpu",
        attn_implementation: str | None = "sdpa",
        quantization: str | Quantization | None = None,
        check_finite: bool = True,
        **arguments: Any,
    ) -> Self:
        """Load the bare transformer of a model, whose output layer is left out.

        The arguments and errors are those of ``ChameleonForConditionalGeneration.from_pretrained``.
        """
        request: Request[WithoutHead] = Request.of(
            name_or_folder,
            arguments,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            quantization=quantization,
        )

        def build(config: ChameleonConfig) -> WithoutHead:
            return WithoutHead(cls(config, attn_implementation=request.attn_implementation))

        loaded = request.load(build, bare=True, check_finite=check_finite)
        model: Any = loaded.model.model
        join_weights(model)
        model._use_config(loaded.config)
        model.source = request.folder
        return request.returned(model)

    @translates_errors
    def save_pretrained(
        self, folder: str | os.PathLike[str] | None = None, *, max_shard_size: int | str = "5GB", **arguments: Any
    ) -> None:
        """Write the bare transformer, with the weights of its source's image tokenizer, in one commit.

        The arguments and errors are those of ``ChameleonForConditionalGeneration.save_pretrained``.
        """
        request = SaveRequest.of(folder, arguments)
        if request.writes:
            save_checkpoint(
                WithoutHead(self),
                request.folder,
                config=self.config.replace(extras={**self.config.extras, "architectures": [type(self).__name__]}),
                source=self.source,
                build=lambda config: WithoutHead(type(self)(config)),
                state_dict=request.state_dict,
                max_shard_size=max_shard_size,
                check_finite=request.check_finite,
            )
            request.upload(self, max_shard_size=max_shard_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        *,
        cache_position: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
        lanes: LaneContext | StaticContext | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> ModelOutput:
        """Return the hidden states of new positions.

        ``input_ids`` int64 [B, T], or ``inputs_embeds`` [B, T, E]. ``pixel_values`` [P, C, H, W] take the places of
        their placeholders; ``mm_encoder_outputs={"image": get_image_features(...)}`` are these, computed before.

        ``attention_mask`` [B, S] is 1 for real positions and 0 for padding, wherever it is; or it is the whole mask,
        [B, 1, T, S], bool or added to the scores. A cache remembers padding, so that later passes need no mask.
        ``position_ids`` [B, T] or [1, T] count from a row's first real position unless given. ``document_ids`` int64
        [B, S] restrict attention to positions of the same number (packed rows).

        ``past_key_values``, or ``cache``, is what an earlier pass returned, ``new_cache(...)``, or a ``DynamicCache``
        of ``transformers``. Without one, ``use_cache``, by default that of the config, makes one, which costs nothing
        until it is used. ``cache_position`` may say where in the cache the new positions are, as there.
        ``output_hidden_states`` and ``output_attentions`` default to those of the config.
        ``return_dict=False`` returns the tuple of the output's values. ``lanes`` is what ``feed_lanes`` passes:
        ``input_ids`` [1, M] are then the new ids of many lanes.

        Raises ``InputError`` where shapes or types don't match, ``ArgumentError`` for an argument that has no use,
        ``VocabularyError`` for ids outside the vocabulary (on a GPU, torch's own error;
        ``ChameleonForConditionalGeneration`` checks first).
        """
        refuse_forward_arguments(others, FORWARD_ARGUMENTS)
        if pixel_values is not None or mm_encoder_outputs:
            input_ids, inputs_embeds = self._with_pictures(input_ids, inputs_embeds, pixel_values, mm_encoder_outputs)
        hidden_BTE = self._embed(input_ids, inputs_embeds)
        if lanes is not None:
            return ModelOutput(last_hidden_state=self.norm(self._run(hidden_BTE, lanes, None)))
        states = [hidden_BTE] if is_requested(output_hidden_states, self.config, "output_hidden_states") else None
        kept = self._cache(cache, past_key_values, use_cache, hidden_BTE.shape[0])
        check_cache_position(cache_position, 0 if kept is None else kept.length, hidden_BTE.shape[1])
        attends = is_requested(output_attentions, self.config, "output_attentions")
        context = self._context(hidden_BTE, attention_mask, position_ids, document_ids, kept, attends)
        hidden_BTE = self.norm(self._run(hidden_BTE, context, states))
        if kept is not None:
            kept.advance(hidden_BTE.shape[1])
        output = ModelOutput(
            last_hidden_state=hidden_BTE,
            past_key_values=getattr(kept, "cache", kept),
            hidden_states=None if states is None else (*states[:-1], hidden_BTE),
            attentions=None if context.attentions is None else tuple(context.attentions),
        )
        requested: ModelOutput = as_requested(output, return_dict, self.config)
        return requested

    def _run(
        self, hidden_BTE: Tensor, context: AttentionContext | LaneContext | StaticContext, states: list[Tensor] | None
    ) -> Tensor:
        """Return what the layers make of the embeddings, and append each layer's output to ``states``."""
        checkpointing = self._checkpointing if self.training and context.is_pure else None
        for index, layer in enumerate(self.layers):
            if checkpointing is not None and checkpointing.takes(index):
                hidden_BTE = checkpointing.run(layer, hidden_BTE, context)
            else:
                hidden_BTE = layer(hidden_BTE, context)
            if states is not None:
                states.append(hidden_BTE)
        return hidden_BTE

    @property
    def attn_implementation(self) -> str:
        """The name of the attention backend; to assign another is ``set_attn_implementation``."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, name: str) -> None:
        self.set_attn_implementation(name)

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """Return an empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return KVCache(self.config.num_hidden_layers, batch_size, capacity=capacity)

    def new_lane_cache(self, name: str = "dynamic") -> LaneCache:
        """Return the cache of an engine by its name, without lanes.

        Where the model is small, passes over its lanes run the layers as they are now, with fewer kernels.
        """
        cache = make_lane_cache(name, self.config)
        layers: Any = self.layers
        cache.packed = PackedLayers.of(self, layers, self.norm)
        return cache

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
        weight, heads = self.embed_tokens.weight, self._num_head_parts
        context = plan_lanes(self.config, self.attention_backend, cache, counts, weight=weight, num_head_parts=heads)
        ids_1M = embeds_1ME = None
        if inputs_embeds is None:
            ids_1M = torch.tensor([[token_id for _, ids in sorted_feeds for token_id in ids]], device=weight.device)
        else:
            own_ME = torch.split(inputs_embeds, [len(ids) for _, ids in feeds])
            embeds_1ME = torch.cat([own_ME[index] for index in order])[None]
        if cache.packed is not None and cache.packed.takes(weight):
            hidden_ME = cache.packed.run(self._embed(ids_1M, embeds_1ME)[0], context)
        else:
            hidden_ME = self(ids_1M, inputs_embeds=embeds_1ME, lanes=context).last_hidden_state[0]
        cache.advance(counts)
        if order == list(range(len(feeds))):
            return hidden_ME
        ends = dict(zip(order, itertools.accumulate(count for _, count in counts), strict=True))
        places = [place for index, (_, ids) in enumerate(feeds) for place in range(ends[index] - len(ids), ends[index])]
        return hidden_ME[places]

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

    def _with_pictures(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        pixel_values: Tensor | None,
        encoded: Mapping[str, Any] | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return ids, or embeddings, with those of pictures in the places of placeholders."""
        if pixel_values is not None and encoded:
            raise InputError("pixel_values and mm_encoder_outputs are the same pictures; pass one of them.")
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("pictures replace placeholders in input_ids or inputs_embeds; pass one of these, too.")
        if pixel_values is not None and input_ids is not None:
            return self.insert_images(input_ids, pixel_values), None
        features = self.get_image_features(pixel_values) if pixel_values is not None else (encoded or {}).get("image")
        if features is None:
            raise InputError('mm_encoder_outputs must be {"image": model.get_image_features(pixel_values)}.')
        embeds_BTE = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return None, self.insert_image_embeddings(embeds_BTE, features.pooler_output)

    def _cache(
        self, cache: Any, past_key_values: Any, use_cache: bool | None, batch_size: int
    ) -> KVCache | ForeignCache | None:
        """Return the cache that was passed, or a new one where ``use_cache`` or the config says so."""
        if cache is not None and past_key_values is not None:
            raise InputError("cache and past_key_values mean the same; pass one of them.")
        given = past_key_values if cache is None else cache
        if given is not None:
            return given if isinstance(given, KVCache) else ForeignCache(given, batch_size)
        if use_cache is None:  # a graph that is exported has the outputs that are asked for
            use_cache = self.config.use_cache and not torch.compiler.is_exporting()
        if not use_cache or (self.training and self.gradient_checkpointing):
            return None
        return self.new_cache(batch_size, capacity=0)

    def _context(
        self,
        hidden_BTE: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        document_ids: Tensor | None,
        cache: KVCache | ForeignCache | None,
        output_attentions: bool,
    ) -> AttentionContext:
        if output_attentions and not isinstance(self.attention_backend, AttentionWeightsBackend):
            raise InputError(
                f"the attention backend {self.attn_implementation!r} never holds attention weights; "
                "load the model with attn_implementation='eager', or set_attn_implementation('eager'), to see them."
            )
        if position_ids is None and isinstance(cache, ForeignCache):  # which doesn't remember where rows start
            end = cache.length + hidden_BTE.shape[1]
            position_ids = torch.arange(cache.length, end, device=hidden_BTE.device)[None]
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
            num_head_parts=self._num_head_parts,
        )

    def _use_attention(self, name: str) -> None:
        self.attention_backend = get_attention_backend(name)
        self.__dict__["_attn_implementation"] = name

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init_weight(module.weight, self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_weight(weight: Tensor, std: float) -> None:
    """Fill a weight from a normal distribution, truncated at three standard deviations."""
    nn.init.trunc_normal_(weight, a=-3, b=3).mul_(std)
