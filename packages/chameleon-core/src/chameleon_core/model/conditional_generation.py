"""The transformer with its output layer: logits, loss, pictures in prompts, checkpoints and generation.

Shapes: B batch, T query length, S key length, N codes a picture, P pictures, C channels, E hidden width,
V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from .._boundary import translates_errors
from ..checkpoints import load_checkpoint, resolve_folder, save_checkpoint
from ..checkpoints.quantization_plan import Quantization
from ..config import ChameleonConfig
from ..errors import ConfigError
from ..formats import GENERATION_FILE
from ..generation import GenerationOptions, Step, TextDecoder, generate_ids
from ..generation.repacked_head import RepackedHead
from ..layout import TokenLayout, tokens_per_image
from ..optional_packages import load_image_tokenizer
from ..protocols import ImageTokenizerLike, TextTokenizerLike
from .cache import KVCache
from .transformer import ChameleonModel, init_weight

IGNORED_LABEL = -100
ECOSYSTEM_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "torch_dtype": "it is called dtype here.",
        "device_map": "device puts the whole model on one device.",
        "low_cpu_mem_usage": "weights are always mapped and never held twice.",
        "quantization_config": "it is called quantization here: a name such as 'bnb-nf4', or a Quantization.",
        "load_in_4bit": "quantization='int4' or 'bnb-nf4' does that here.",
        "load_in_8bit": "quantization='int8' or 'bnb-int8' does that here.",
    }
)
"""What the arguments of other libraries' ``from_pretrained`` are here."""


@dataclass(frozen=True, slots=True)
class CausalOutput:
    """What ``ChameleonForConditionalGeneration`` returns."""

    logits: Tensor
    """[B, T, V] or fewer positions (``logits_to_keep``), raw: no id is masked."""
    loss: Tensor | None
    """The mean cross-entropy of each label given what is before it, in float32, when labels were given."""
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cache: KVCache | None


class ChameleonForConditionalGeneration(nn.Module):
    """Chameleon with its output layer.

    ``image_tokenizer`` turns ``pixel_values`` into ids. A model that came from a folder loads it from there when it is
    first needed, through chameleon-vq; set the attribute to use another.
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
        **unknown: object,
    ) -> Self:
        """Load a model from a folder, by the name of an installed model, or by a Hub id (extra ``hub``), in eval mode.

        ``dtype`` is what floating weights become: "auto" is what the config records, where it does, and None leaves
        each as it is stored. Weights that stay as they are stored remain views of the mapped files, and at no time are
        there two copies.

        ``quantization`` is the name of a weight quantizer, or a ``Quantization`` with its options and the layers to
        skip; a folder that was saved quantized loads without it.

        Raises ``ModelNotFoundError``, ``FileFormatError`` for a damaged file, ``WeightsError`` with every tensor that
        is missing, unexpected or of another shape, and ``ConfigError`` for a quantization that can't be had.
        """
        for argument in unknown:
            known = "the arguments are dtype, device, attn_implementation and quantization."
            hint = ECOSYSTEM_ARGUMENTS.get(argument, known)
            raise TypeError(f"from_pretrained() has no argument {argument!r}: {hint}")
        folder = resolve_folder(name_or_folder)
        loaded = load_checkpoint(
            folder,
            build=lambda config: cls(config, attn_implementation=attn_implementation),
            dtype=dtype,
            device=device,
            quantization=quantization,
        )
        model = loaded.model
        model.config = model.model.config = loaded.config
        model.source = folder
        model.generation_options = GenerationOptions.from_dict(
            {name: value for name, value in loaded.generation_config.items() if value is not None},
            source=str(folder / GENERATION_FILE),
        )
        return model

    @translates_errors
    def save_pretrained(self, folder: str | os.PathLike[str], *, max_shard_size: int | str = "5GB") -> None:
        """Write the model in the reference's layout, with the weights of its image tokenizer.

        A tokenizer that was set is written; without one, the weights in the folder that the model came from are passed
        on untouched. What ``folder`` held before stays loadable until the new checkpoint is whole.
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
        """Logits of new positions, and the loss where ``labels`` are given.

        ``pixel_values`` [P, C, height, width] take the places of the placeholder ids of ``input_ids``, picture after
        picture. ``labels`` int64 [B, T] are the ids themselves, shifted here; -100 marks positions without a loss.
        ``logits_to_keep`` n computes the last n positions only (0: all), or the positions that a tensor of indices
        names. The other arguments are those of ``ChameleonModel``. Raises ``ValueError`` where shapes don't fit.
        """
        if pixel_values is not None:
            if input_ids is None:
                raise ValueError("pixel_values take the places of placeholders in input_ids, which were not given.")
            input_ids = self.insert_images(input_ids, pixel_values)
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
        logits_BTV = self.lm_head(output.last_hidden_state[:, _kept_positions(logits_to_keep)])
        loss = None if labels is None else _shifted_loss(logits_BTV, labels)
        return CausalOutput(logits_BTV, loss, output.hidden_states, output.attentions, output.cache)

    @translates_errors
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        *,
        options: GenerationOptions | None = None,
        tokenizer: TextDecoder | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Tensor:
        """Continue each row of ``input_ids`` [B, T] and return prompts and continuations, int64 [B, T + new].

        Rows that end early are filled with the padding id. ``options`` default to the checkpoint's; ``changes`` are
        single fields of them (``max_new_tokens=50``). ``tokenizer`` is needed for ``stop_strings``. ``should_stop`` is
        asked before each token. Raises ``ContextLengthError`` before any work where the positions don't suffice.
        """
        if pixel_values is not None:
            input_ids = self.insert_images(input_ids, pixel_values)
        steps = list(
            self.stream_ids(
                input_ids,
                attention_mask,
                options=options,
                tokenizer=tokenizer,
                should_stop=should_stop,
                **changes,
            )
        )
        padding = self.pad_token_id
        columns = [[padding if token_id is None else token_id for token_id in step.ids] for step in steps]
        new_TB = torch.tensor(columns, dtype=torch.int64, device=input_ids.device).reshape(len(steps), len(input_ids))
        return torch.cat((input_ids, new_TB.T), dim=1)

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
        **changes: Any,
    ) -> Generator[Step]:
        """The same as ``generate``, a step at a time: each row's new id, and why a row has ended once it has.

        Closing the iterator ends the work.
        """
        options = (options or self.generation_options).replace(**changes)
        if pixel_values is not None:
            input_ids = self.insert_images(input_ids, pixel_values)
        return generate_ids(self, input_ids, attention_mask, options, tokenizer=tokenizer, should_stop=should_stop)

    def attach_tokenizer(self, tokenizer: TextTokenizerLike) -> None:
        """Let the model's text tokenizer say which ids are text and which are special.

        Until then the names in the config's ``vocabulary_map`` decide, and every name that begins with ``<`` is
        special; a tokenizer knows which of them its merges build out of text, and which others its file flags.
        ``Chameleon`` attaches its processor's tokenizer.
        """
        self._tokenizer = tokenizer
        self.__dict__.pop("layout", None)

    def new_cache(self, batch_size: int, *, capacity: int = 64) -> KVCache:
        """Return an empty cache for ``batch_size`` rows, with room for ``capacity`` positions before it must grow."""
        return self.model.new_cache(batch_size, capacity=capacity)

    def forward_cached(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Run the transformer on new ids [B, T] after those in ``cache``; return the final hidden states [B, T, E]."""
        return self.model(input_ids, cache=cache).last_hidden_state

    @cached_property
    def layout(self) -> TokenLayout:
        """Which ids are picture codes', which are special and which are text.

        It comes from the attached tokenizer, or from the config's ``vocabulary_map`` where none was attached.
        """
        if self.config.vocabulary_map is None:
            raise ConfigError(
                "the config has no vocabulary_map, so which ids stand for pictures isn't known. "
                "Build ChameleonConfig with vocabulary_map={name: id, ...}, the names and ids of the tokenizer."
            )
        if self._tokenizer is None:
            return TokenLayout.from_config(self.config)
        return TokenLayout.from_vocabulary_map(
            self._tokenizer.token_ids,
            tokens_per_image(self.config.vq_config),
            vocab_size=self.config.vocab_size,
            # A tokenizer of another package may not say which of its ids are special; their names do.
            special_ids=getattr(self._tokenizer, "special_ids", None),
        )

    @property
    def pad_token_id(self) -> int:
        """What fills rows that end early: the padding token by name, else the config's, else the end of stream."""
        if self.config.vocabulary_map is not None:
            return self.layout.pad_id
        if self.config.pad_token_id is not None:
            return self.config.pad_token_id
        return next(iter(self.config.eos_token_ids), 0)

    @property
    def image_tokenizer(self) -> ImageTokenizerLike:
        """What turns pictures into codes, loaded from the model's own folder unless it was set.

        Raises ``MissingPackageError`` where chameleon-vq isn't installed, ``ConfigError`` where there is no folder.
        """
        if self._image_tokenizer is None:
            if self.source is None:
                raise ConfigError(
                    "this model has no image tokenizer: it wasn't loaded from a folder. "
                    "Set model.image_tokenizer = ImageTokenizer.from_pretrained(...) of chameleon_vq."
                )
            self._image_tokenizer = load_image_tokenizer(self.source, device=self.device)
        return self._image_tokenizer

    @image_tokenizer.setter
    def image_tokenizer(self, image_tokenizer: ImageTokenizerLike) -> None:
        self._image_tokenizer = image_tokenizer

    @torch.no_grad()
    @translates_errors
    def insert_images(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """``input_ids`` [B, T] with the placeholders replaced by the ids of ``pixel_values`` [P, C, height, width]."""
        placeholder = self.layout.placeholder_id
        places_BT = input_ids == placeholder
        codes_PN = self.image_tokenizer.encode_pixels(pixel_values)
        if int(places_BT.sum()) != codes_PN.numel():
            raise ValueError(
                f"the prompt has {int(places_BT.sum())} placeholders (id {placeholder}) and the "
                f"{codes_PN.shape[0]} pictures give {codes_PN.numel()} codes, {codes_PN.shape[1]} each. "
                "Build the prompt with ChameleonProcessor(image_seq_length=<codes of a picture>)."
            )
        picture_ids = self.layout.code_to_id_Z.to(input_ids.device)[codes_PN.to(input_ids.device)]
        return input_ids.masked_scatter(places_BT, picture_ids.to(input_ids.dtype))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are, those that aren't quantized."""
        return self.model.embed_tokens.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """The table from ids to hidden states."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The output layer."""
        return self.lm_head

    def tie_weights(self) -> None:
        """Let the output layer use the embeddings' table."""
        self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def resize_token_embeddings(self, new_num_tokens: int, *, pad_to_multiple_of: int = 1) -> nn.Embedding:
        """Grow or shrink the vocabulary to ``new_num_tokens`` rows, rounded up to a multiple; returns the embeddings.

        New rows are the mean of the old ones: a new id then starts as an average one, neither forbidden nor favoured.
        """
        if new_num_tokens < 1 or pad_to_multiple_of < 1:
            raise ValueError(
                f"new_num_tokens and pad_to_multiple_of must be at least 1, got {new_num_tokens}, {pad_to_multiple_of}."
            )
        if isinstance(self.lm_head, QuantizedLinear):
            raise ConfigError(
                "the output layer is quantized, and has no rows to add. Resize the float model and quantize that."
            )
        size = -(-new_num_tokens // pad_to_multiple_of) * pad_to_multiple_of
        config = self.config.replace(vocab_size=size)
        self.model.embed_tokens = nn.Embedding(
            size, config.hidden_size, _weight=_resized(self.model.embed_tokens.weight, size)
        )
        if config.tie_word_embeddings:
            self.tie_weights()
        else:
            self.lm_head.weight = nn.Parameter(_resized(self.lm_head.weight, size))
        self.lm_head.out_features = size
        self.config = self.model.config = config
        self.__dict__.pop("layout", None)
        return self.model.embed_tokens


def _kept_positions(logits_to_keep: int | Tensor) -> slice | Tensor:
    if isinstance(logits_to_keep, Tensor):
        return logits_to_keep
    if logits_to_keep < 0:
        raise ValueError(f"logits_to_keep must be 0 (all positions) or above, is {logits_to_keep}.")
    return slice(-logits_to_keep or None, None)


def _shifted_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """The mean cross-entropy of each label given what is before it."""
    if labels_BT.shape != logits_BTV.shape[:2]:
        raise ValueError(
            f"labels {list(labels_BT.shape)} must have the positions of the logits {list(logits_BTV.shape[:2])}; "
            "leave logits_to_keep at 0 when training."
        )
    return F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), labels_BT[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def _resized(weight_VE: Tensor, size: int) -> Tensor:
    kept_VE = weight_VE[:size]
    mean_1E = weight_VE.mean(dim=0, keepdim=True)
    return torch.cat((kept_VE, mean_1E.expand(size - len(kept_VE), -1)))
