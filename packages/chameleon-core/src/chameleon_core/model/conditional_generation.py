"""The transformer with its output layer: logits, loss, pictures in prompts, checkpoints and generation.

Shapes: B batch, T query length, S key length, H heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack, overload

import torch
from torch import Tensor, nn

from .._boundary import translates_errors
from .._moved import moved_names
from ..checkpoints import save_checkpoint
from ..checkpoints.quantization_plan import Quantization
from ..compat.forward_arguments import as_requested, refuse_forward_arguments
from ..compat.generation import generate, positional_arguments
from ..compat.generation_config import GenerationConfig, GenerationConfigView, options_from
from ..compat.generation_keywords import GenerateKeywords, SharedKeywords
from ..compat.generation_outputs import GenerateOutput, transition_scores
from ..compat.loading import Request
from ..compat.saving import SaveRequest
from ..compat.step_inputs import StepInputs
from ..config import ChameleonConfig
from ..errors import ConfigError, InputError
from ..formats import GENERATION_FILE
from ..generation import GenerationChanges, GenerationOptions, Step, TextDecoder, generate_ids
from ..generation.prompts import check_type, mask_of_padding
from ..generation.repacked_head import RepackedHead
from .cache import KVCache
from .inputs import check_call, kept_positions
from .joined_weights import join_weights
from .lane_decoding import LaneDecoding
from .leading import Slices
from .loss import LOSS_ARGUMENTS, next_token_loss
from .outputs import CausalOutput
from .picture_inputs import PictureInputs
from .transformer import FORWARD_ARGUMENTS, ChameleonModel, init_weight


class ChameleonForConditionalGeneration(LaneDecoding, StepInputs, PictureInputs):
    """Chameleon with its output layer: logits, loss and generation.

    ``image_tokenizer`` encodes ``pixel_values`` as ids. A model that was loaded from a folder loads it from there on
    first use, through chameleon-vq; set the attribute to use another.

    ``masks_picture_codes``, False by default, sets the logits of picture codes to the lowest number and so takes them
    out of the loss, as ``transformers`` does: likelihoods are then those of text alone. Generation never needs it.
    ``extra_weights`` are those that ``from_pretrained(..., extra_weights="keep")`` kept; a save writes them, too.
    """

    loss_type: ClassVar[str] = "ForConditionalGeneration"
    """What the Trainer of ``transformers`` asks, to count the labels of a loss as ``loss_function`` does."""

    generation_config_class: ClassVar[type[GenerationConfig]] = GenerationConfig
    """What ``generation_config`` may be assigned."""
    attribute_types: ClassVar[Mapping[str, tuple[type, ...]]] = {
        **PictureInputs.attribute_types,
        "extra_weights": (Mapping,),
        "generation_options": (GenerationOptions,),
        "masks_picture_codes": (bool,),
        "repacked_head": (RepackedHead,),
    }

    @translates_errors
    def __init__(self, config: ChameleonConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.model = ChameleonModel(config, attn_implementation=attn_implementation)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weight(self.lm_head.weight, config.initializer_range)
        self.generation_options = GenerationOptions()
        self.repacked_head = RepackedHead()
        self.masks_picture_codes = False
        self.extra_weights: Mapping[str, Tensor] = {}
        self.tie_weights()
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
        tensor_parallel: int = 1,
        **arguments: Any,
    ) -> Self:
        """Load a model in eval mode from a folder, by the name of an installed model, or by a Hub id (extra ``hub``).

        ``dtype`` is what floating-point weights are cast to: "auto" is the type that the config records, if any, and
        None keeps the stored types. Weights that need no cast stay views of the memory-mapped files.

        ``quantization`` is the name of a weight quantizer, or a ``Quantization`` with its options and the layers to
        skip. A folder saved quantized needs none. ``check_finite=False`` leaves out checks for NaN. With
        ``tensor_parallel`` so many processes load slices of one model; see ``leading``. ``arguments`` are
        fields that replace those of the config; ``extra_weights`` and ``rotary_layout`` of ``load_checkpoint``; and
        those of ``transformers``, which ``compat.loading`` translates.

        Raises ``ModelNotFoundError``, ``FileFormatError`` for a damaged file, ``WeightsError`` with every tensor that
        is missing, unexpected or of another shape, and ``ConfigError`` for a quantization that isn't available.
        """
        request: Request[Self] = Request.of(
            name_or_folder,
            arguments,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            quantization=quantization,
        )
        backend = request.attn_implementation
        slices = Slices(tensor_parallel, request.device)
        loaded = request.load(
            lambda config: cls(config, attn_implementation=backend), check_finite=check_finite, own_of=slices.join
        )
        model = loaded.model
        join_weights(model)
        model._leader = slices.leader_of(model)
        model._use_config(loaded.config)
        model.source, model.extra_weights = request.folder, loaded.extra_weights
        model.picture_reader.check_finite = check_finite
        model.generation_options = GenerationOptions.from_file_dict(
            loaded.generation_config, loaded.config, source=f"{request.folder}/{GENERATION_FILE}"
        )
        return request.returned(model)

    @translates_errors
    def save_pretrained(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_shard_size: int | str = "5GB",
        checkpoint_format: str = "hf",
        **arguments: Any,
    ) -> None:
        """Write the model, with the weights of its image tokenizer, in one commit.

        One that was neither set nor used is copied from the model's source. ``checkpoint_format`` is an installed
        format: "hf", the layout of ``transformers``, "meta" or a plugin's. ``max_shard_size`` is a number of bytes, or
        a text such as "5GB"; ``compat.saving`` translates ``arguments``, those of ``transformers``. Raises
        ``WeightsError`` for what wouldn't load again (NaN too, unless ``check_finite=False``), ``ConfigError`` for what
        the format can't say, and ``FileAccessError``.
        """
        if not (request := SaveRequest.of(folder, arguments)).writes:
            return
        if self._leader is not None:
            self._leader.refuse("save_pretrained()")
        config = self.config
        image_weights = None
        if self._image_tokenizer is not None:
            config = config.replace(vq_config=dict(self._image_tokenizer.config_dict()))
            image_weights = self._image_tokenizer.state_dict()
        save_checkpoint(
            self,
            request.folder,
            config=config,
            generation_config=self.generation_options.to_file_dict(config),
            image_weights=image_weights,
            extra_weights=self.extra_weights,
            source=self.source,
            build=type(self),
            state_dict=request.state_dict,
            max_shard_size=max_shard_size,
            checkpoint_format=checkpoint_format,
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        *,
        cache_position: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalOutput:
        """Return the logits of new positions, and the loss if ``labels`` are given.

        ``pixel_values`` [pictures, channels, height, width] replace the placeholder ids of ``input_ids``, picture after
        picture. ``labels`` int64 [B, T] are the ids themselves, shifted here; -100 marks positions without a loss.
        ``logits_to_keep`` restricts the logits to the last n positions (0: all), or to the positions in a tensor of
        indices. The other arguments are those of ``ChameleonModel``, and those of the loss: ``num_items_in_batch``
        divides its sum, ``shift_labels`` are labels that are shifted already.

        Raises ``InputError`` where shapes don't match, ``VocabularyError`` for ids outside the vocabulary,
        ``ArgumentError`` for an argument that has no use; warns (``InputWarning``) of padding that no mask hides.
        """
        of_loss = {name: others[name] for name in LOSS_ARGUMENTS if others.get(name) is not None}
        others = {name: value for name, value in others.items() if name not in LOSS_ARGUMENTS}
        refuse_forward_arguments(others, (*FORWARD_ARGUMENTS, "labels", "logits_to_keep", *LOSS_ARGUMENTS))
        if pixel_values is not None and input_ids is not None and not mm_encoder_outputs:
            input_ids, pixel_values = self.insert_images(input_ids, pixel_values), None
        if not self.training and not torch.compiler.is_compiling():  # a trainer checks its documents
            given = past_key_values if cache is None else cache
            check_call(input_ids, self.config, self._known_pad_id, attention_mask, document_ids, given)
        output = self.model(
            input_ids,
            pixel_values,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            mm_encoder_outputs,
            cache_position=cache_position,
            document_ids=document_ids,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits_BTV = self.lm_head(output.last_hidden_state[:, kept_positions(logits_to_keep)])
        if self.masks_picture_codes:
            ids_Z = self.layout.code_to_id_Z.to(logits_BTV.device)
            logits_BTV = logits_BTV.index_fill(-1, ids_Z, torch.finfo(logits_BTV.dtype).min)
        loss = None
        if labels is not None or of_loss:
            size = self.config.vocab_size
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=size, **of_loss)
        causal = CausalOutput(
            loss=loss,
            logits=logits_BTV,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
        requested: CausalOutput = as_requested(causal, return_dict, self.config)
        return requested

    @property
    def loss_function(self) -> Callable[..., Tensor]:
        """What computes the loss of ``logits`` and ``labels``; assign another to use it in ``forward``."""
        chosen: Callable[..., Tensor] = self.__dict__.get("_loss_function", next_token_loss)
        return chosen

    @loss_function.setter
    def loss_function(self, function: Callable[..., Tensor]) -> None:
        if not callable(function):
            raise ConfigError(f"loss_function must be a function of logits and labels; got {function!r:.80}.")
        self.__dict__["_loss_function"] = function

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

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """Return an empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return self.model.new_cache(batch_size, capacity=capacity)

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


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "IGNORED_LABEL": "chameleon_core.model.loss:IGNORE_INDEX",
        },
    )
