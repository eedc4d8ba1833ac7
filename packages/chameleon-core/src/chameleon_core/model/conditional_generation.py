"""The transformer with its output layer: logits, loss, pictures in prompts, checkpoints and generation.

Shapes: B batch, T query length, S key length, H heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

import torch
from torch import Tensor, nn

from .._boundary import translates_errors
from .._moved import moved_names
from ..checkpoints import load_checkpoint, resolve_folder, save_checkpoint
from ..checkpoints.quantization_plan import Quantization
from ..compat.generation import generate, positional_arguments
from ..compat.generation_config import GenerationConfigView, options_from
from ..compat.generation_keywords import GenerateKeywords, SharedKeywords
from ..compat.generation_outputs import GenerateOutput, transition_scores
from ..compat.methods import TransformersMethods
from ..config import ChameleonConfig
from ..errors import ConfigError, InputError
from ..formats import GENERATION_FILE
from ..generation import GenerationChanges, GenerationOptions, Step, TextDecoder, generate_ids
from ..generation.prompts import check_type, mask_of_padding
from ..generation.repacked_head import RepackedHead
from ..layout import TokenLayout
from ..optional_packages import load_image_tokenizer
from ..protocols import ImageTokenizerLike, TextTokenizerLike
from .cache import KVCache
from .ecosystem import refuse_arguments
from .inputs import check_call, kept_positions
from .lane_cache import CachedLane, LaneCache, make_lane_cache
from .loss import next_token_loss
from .outputs import CausalOutput
from .transformer import ChameleonModel, init_weight


class ChameleonForConditionalGeneration(TransformersMethods):
    """Chameleon with its output layer: logits, loss and generation.

    ``image_tokenizer`` encodes ``pixel_values`` as ids. A model that was loaded from a folder loads it from there on
    first use, through chameleon-vq; set the attribute to use another.
    """

    @translates_errors
    def __init__(self, config: ChameleonConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.model = ChameleonModel(config, attn_implementation=attn_implementation)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weight(self.lm_head.weight, config.initializer_range)
        self.generation_options = GenerationOptions()
        self.repacked_head = RepackedHead()
        self.source: Path | None = None
        self._image_tokenizer: ImageTokenizerLike | None = None
        self._check_finite = True
        self._tokenizer: TextTokenizerLike | None = None
        if config.tie_word_embeddings:
            self.tie_weights()

    @classmethod
    @translates_errors
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = "auto",
        device: torch.device | str = "cpu",
        attn_implementation: str = "sdpa",
        quantization: str | Quantization | None = None,
        check_finite: bool = True,
        **unknown: object,
    ) -> Self:
        """Load a model in eval mode from a folder, by the name of an installed model, or by a Hub id (extra ``hub``).

        ``dtype`` is what floating-point weights are cast to: "auto" is the type that the config records, if any, and
        None keeps the stored types. Weights that need no cast stay views of the memory-mapped files, and no weight is
        ever held twice.

        ``quantization`` is the name of a weight quantizer, or a ``Quantization`` with its options and the layers to
        skip. A folder saved quantized needs none. ``check_finite=False`` leaves out checks for NaN.

        Raises ``ModelNotFoundError``, ``FileFormatError`` for a damaged file, ``WeightsError`` with every tensor that
        is missing, unexpected or of another shape, and ``ConfigError`` for a quantization that isn't available.
        """
        refuse_arguments(unknown)
        folder = resolve_folder(name_or_folder)
        loaded = load_checkpoint(
            folder,
            build=lambda config: cls(config, attn_implementation=attn_implementation),
            dtype=dtype,
            device=device,
            quantization=quantization,
            check_finite=check_finite,
        )
        model = loaded.model
        model.config = model.model.config = loaded.config
        model.source = folder
        model._check_finite = check_finite
        model.generation_options = GenerationOptions.from_file_dict(
            loaded.generation_config, loaded.config, source=str(folder / GENERATION_FILE)
        )
        return model

    @translates_errors
    def save_pretrained(self, folder: str | os.PathLike[str], *, max_shard_size: int | str = "5GB") -> None:
        """Write the model in the layout of ``transformers``, with the weights of its image tokenizer, in one commit.

        One that was neither set nor used is copied from the model's source. ``max_shard_size`` is a number of bytes, or
        a text such as "5GB". Raises ``WeightsError`` for what wouldn't load again, and ``FileAccessError``.
        """
        config = self.config
        image_weights = None
        if self._image_tokenizer is not None:
            config = config.replace(vq_config=dict(self._image_tokenizer.config_dict()))
            image_weights = self._image_tokenizer.state_dict()
        save_checkpoint(
            self,
            folder,
            config=config,
            generation_config=self.generation_options.to_file_dict(config),
            image_weights=image_weights,
            source=self.source,
            build=type(self),
            max_shard_size=max_shard_size,
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CausalOutput:
        """Return the logits of new positions, and the loss if ``labels`` are given.

        ``pixel_values`` [pictures, channels, height, width] replace the placeholder ids of ``input_ids``, picture after
        picture. ``labels`` int64 [B, T] are the ids themselves, shifted here; -100 marks positions without a loss.
        ``logits_to_keep`` restricts the logits to the last n positions (0: all), or to the positions in a tensor of
        indices. The other arguments are those of ``ChameleonModel``. Raises ``InputError`` where shapes don't match,
        ``VocabularyError`` for ids outside the vocabulary; warns (``InputWarning``) of padding that no mask hides.
        """
        if pixel_values is not None:
            if input_ids is None:
                raise InputError(
                    "pixel_values replace placeholders in input_ids, and there are no input_ids; pass both."
                )
            input_ids = self.insert_images(input_ids, pixel_values)
        if not self.training:  # a trainer checks its documents
            check_call(input_ids, self.config, self._known_pad_id, attention_mask, document_ids, cache)
        output = self.model(
            input_ids,
            attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            document_ids=document_ids,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits_BTV = self.lm_head(output.last_hidden_state[:, kept_positions(logits_to_keep)])
        loss = None if labels is None else next_token_loss(logits_BTV, labels)
        return CausalOutput(logits_BTV, loss, output.hidden_states, output.attentions, output.cache)

    @property
    def _known_pad_id(self) -> int | None:
        return self.config.pad_token_id if self.config.vocabulary_map is None else self.layout.pad_id

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> CausalOutput:
            """Run ``forward``, and hooks; torch's own has no type."""

    @overload
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        pixel_values: Any = None,
        *,
        return_dict_in_generate: Literal[True],
        options: GenerationOptions | None = None,
        tokenizer: TextDecoder | None = None,
        should_stop: Callable[[], bool] | None = None,
        **keywords: Unpack[SharedKeywords],
    ) -> GenerateOutput: ...

    @overload
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        pixel_values: Any = None,
        *,
        options: GenerationOptions | None = None,
        tokenizer: TextDecoder | None = None,
        should_stop: Callable[[], bool] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Tensor: ...

    @translates_errors
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        pixel_values: Any = None,
        *,
        options: GenerationOptions | None = None,
        tokenizer: TextDecoder | None = None,
        should_stop: Callable[[], bool] | None = None,
        **keywords: Any,
    ) -> Tensor | GenerateOutput:
        """Continue each row of ``input_ids`` [B, T] and return prompts with continuations, int64 [B, T + new].

        Without ``attention_mask``, ids of padding at the sides of a row are padding, as in ``transformers``. Rows that
        end early are filled with the padding id. ``options`` default to those of the checkpoint; ``keywords`` override
        single fields of them (``max_new_tokens=50``), and may be the arguments of ``generate`` in ``transformers``.
        ``tokenizer`` is needed for ``stop_strings``. ``should_stop()`` is called before each step; true ends the
        generation. Raises ``ContextLengthError`` before any work where the context is too short, ``ConfigError`` or
        ``ArgumentError`` for what can't be used.
        """
        arguments = {
            **positional_arguments(attention_mask, pixel_values),
            **({} if input_ids is None else {"input_ids": input_ids}),
            **keywords,
        }
        return generate(self, arguments, options=options, tokenizer=tokenizer, should_stop=should_stop)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Return the score of each new id of a ``GenerateOutput`` without beams, float32 [B, new]."""
        if beam_indices is not None:
            raise InputError("compute_transition_scores() takes no beam_indices; sequences_scores are those of beams.")
        return transition_scores(sequences, scores, normalize_logits=normalize_logits)

    @translates_errors
    def stream_ids(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        *,
        options: GenerationOptions | None = None,
        tokenizer: TextDecoder | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Unpack[GenerationChanges],
    ) -> Generator[Step]:
        """Generate as ``generate`` does, yielding a ``Step`` with each row's new id as soon as it is chosen.

        Arguments are checked eagerly. Closing the iterator ends the generation.
        """
        options = (options or self.generation_options).replace(**changes)
        if pixel_values is not None:
            input_ids = self.insert_images(input_ids, pixel_values)
        check_type(input_ids)
        if attention_mask is None:
            attention_mask = mask_of_padding(input_ids, self._known_pad_id, self.config.eos_token_ids)
        return generate_ids(self, input_ids, attention_mask, options, tokenizer=tokenizer, should_stop=should_stop)

    def attach_tokenizer(self, tokenizer: TextTokenizerLike) -> None:
        """Let a text tokenizer decide which ids are text and which are special.

        Without one the names in the config's ``vocabulary_map`` decide, and every name that begins with ``<`` is
        special. A tokenizer knows which of these its merges produce from text, and which other ids its file flags as
        special. ``Chameleon`` attaches the tokenizer of its processor.
        """
        self._tokenizer = tokenizer
        self.__dict__.pop("layout", None)

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """Return an empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return self.model.new_cache(batch_size, capacity=capacity)

    def new_lane_cache(self, name: str = "dynamic") -> LaneCache:
        """Return the cache of an engine by its name, without lanes."""
        return make_lane_cache(name, self.config)

    def feed_lanes(self, feeds: Sequence[tuple[CachedLane, Sequence[int]]], cache: LaneCache) -> Tensor:
        """Feed lanes of an engine's cache new ids; return the final hidden states [M, E], lane after lane."""
        return self.model.feed_lanes(feeds, cache)

    @cached_property
    def layout(self) -> TokenLayout:
        """Which ids are picture codes, which are special and which are text.

        It is built from the attached tokenizer, or without one from the config's ``vocabulary_map``. Raises
        ``ConfigError`` where the config has none.
        """
        if self.config.vocabulary_map is None:
            raise ConfigError(
                "the config has no vocabulary_map, so the ids of picture codes are unknown. "
                "Build ChameleonConfig with vocabulary_map={name: id, ...}, the names and ids of the tokenizer."
            )
        if self._tokenizer is None:
            return TokenLayout.from_config(self.config)
        return TokenLayout.from_config(
            self.config,
            vocabulary_map=self._tokenizer.token_ids,
            # A third-party tokenizer may not say which of its ids are special; their names do.
            special_ids=getattr(self._tokenizer, "special_ids", None),
        )

    @property
    def pad_token_id(self) -> int:
        """The id that fills rows that end early: that of ``generation_config.json``, else the config's, else the
        layout's padding, else the end of stream.
        """
        stated = self.generation_options.extras.get("pad_token_id", self.config.pad_token_id)
        if stated is not None:
            return int(stated)
        if self.config.vocabulary_map is not None:
            return self.layout.pad_id
        return next(iter(self.config.eos_token_ids), 0)

    @property
    def generation_config(self) -> GenerationConfigView:
        """The options of generation under the names of ``transformers``; ``generation_options`` has the same values."""
        return GenerationConfigView(self)

    @generation_config.setter
    def generation_config(self, given: object) -> None:
        self.generation_options = options_from(self, given)

    @property
    def image_tokenizer(self) -> ImageTokenizerLike:
        """The image tokenizer, loaded from the model's folder on first use unless it was set.

        Raises ``MissingPackageError`` where chameleon-vq isn't installed, ``ConfigError`` where the model wasn't loaded
        from a folder.
        """
        if self._image_tokenizer is None:
            if self.source is None:
                raise ConfigError(
                    "this model has no image tokenizer, because it wasn't loaded from a folder. "
                    "Set model.image_tokenizer = ImageTokenizer.from_pretrained(...) of chameleon_vq."
                )
            self._image_tokenizer = load_image_tokenizer(
                self.source, device=self.device, check_finite=self._check_finite
            )
        return self._image_tokenizer

    @image_tokenizer.setter
    def image_tokenizer(self, image_tokenizer: ImageTokenizerLike) -> None:
        self._image_tokenizer = image_tokenizer

    @torch.no_grad()
    @translates_errors
    def insert_images(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Return ``input_ids`` [B, T] with the placeholders replaced by the ids of ``pixel_values``.

        Raises ``InputError`` where the number of placeholders isn't that of the pictures' codes.
        """
        self.layout.pictures.check_takes_pixels()
        placeholder = self.layout.placeholder_id
        is_placeholder_BT = input_ids == placeholder
        codes = self.image_tokenizer.encode_pixels(pixel_values)
        if int(is_placeholder_BT.sum()) != codes.numel():
            raise InputError(
                f"the prompt has {int(is_placeholder_BT.sum())} placeholders (id {placeholder}) and the "
                f"{codes.shape[0]} pictures give {codes.numel()} codes, {codes.shape[1]} each. "
                "Build the prompt with ChameleonProcessor(image_seq_length=<codes of a picture>)."
            )
        picture_ids = self.layout.code_to_id_Z.to(input_ids.device)[codes.to(input_ids.device)]
        return input_ids.masked_scatter(is_placeholder_BT, picture_ids.to(input_ids.dtype))


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "IGNORED_LABEL": "chameleon_core.model.loss:IGNORE_INDEX",
            "ECOSYSTEM_ARGUMENTS": "chameleon_core.model.ecosystem:ECOSYSTEM_ARGUMENTS",
        },
    )
