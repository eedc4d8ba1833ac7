"""The methods that users of ``transformers`` know, for the models here.

Shapes: V vocabulary, E hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from .._hub import push_saved
from ..config import ChameleonConfig
from ..errors import ConfigError
from .attributes import KnownAttributes
from .checkpointing import Checkpointing
from .loading import attention_name
from .resize import check_resizable, resized_rows, rounded_size, with_added_names

OF_THE_WEIGHTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "rms_norm_eps", "attention_bias", "attention_dropout", "swin_norm"),
    *("mlp_bias", "qk_norm"),
)
"""The fields that layers are made with. The others are read anew in each pass."""


class TransformersMethods(KnownAttributes):
    """The base of the models, with what a model of ``transformers`` is asked for.

    ``base_model`` is the bare transformer, whose embeddings are ``embed_tokens``; the output layer, where there is one,
    is ``lm_head``.
    """

    config_class: ClassVar[type[ChameleonConfig]] = ChameleonConfig
    """The class of ``config``."""
    source: Path | None
    base_model_prefix: ClassVar[str] = "model"
    """The attribute of the bare transformer in a model that has more."""
    main_input_name: ClassVar[str] = "input_ids"
    """The first argument of ``forward``."""
    input_modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    """What a model reads."""
    output_modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    """What a model writes."""
    supports_gradient_checkpointing: ClassVar[bool] = True
    """Whether layers can be recomputed in the backward pass."""
    attribute_types: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "is_parallelizable": (bool,),
        "main_input_name": (str,),
        "model_parallel": (bool,),
        "model_tags": (list, type(None)),
        "training": (bool,),
    }
    is_parallelizable: bool = False
    """Whether a model spreads its layers over devices by itself."""
    model_parallel: bool = False
    """Whether it has done so."""
    model_tags: list[str] | None = None
    """Tags for a model card, of ``add_model_tags``."""
    _config: ChameleonConfig
    _no_split_modules: ClassVar[list[str]] = ["DecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "cache"]
    _tied_weights_keys: ClassVar[Mapping[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None

    @property
    def config(self) -> ChameleonConfig:
        """The configuration. Another one may be assigned that says the same of the weights, with ``ConfigError`` else.

        It is that of the bare transformer, too.
        """
        return self._config

    @config.setter
    def config(self, config: ChameleonConfig) -> None:
        if "_sealed" in self.__dict__:
            check_same_weights(self.config, config)
            self._use_config(config)
        self.__dict__["_config"] = config

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """The names of weights that are another one, by name: that of the output layer, where it is tied."""
        has_head = self.get_output_embeddings() is not None
        return dict(self._tied_weights_keys) if has_head and self.config.tie_word_embeddings else {}

    @property
    def base_model(self) -> Any:
        """The bare transformer: this model, or the one in it."""
        return self._modules.get(self.base_model_prefix, self)

    def get_decoder(self) -> Any:
        """Return the bare transformer."""
        return self.base_model

    def get_encoder(self, modality: str | None = None) -> Self:
        """Return the model itself, which has no encoder: pictures are ids."""
        return self

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "5GB", **options: Any) -> str:
        """Upload the model to a repository of the Hub, made where there is none; return the commit's address.

        ``options`` are ``token``, ``private``, ``commit_message``, ``commit_description``, ``revision`` and
        ``create_pr``. Raises ``MissingPackageError`` without huggingface-hub, which the extra ``hub`` installs.
        """
        save: Any = self.save_pretrained
        return push_saved(lambda folder: save(folder, max_shard_size=max_shard_size), repo_id, options)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights that aren't quantized."""
        return self.get_input_embeddings().weight.dtype

    @property
    def name_or_path(self) -> str:
        """The folder that the model was loaded from, "" of a new one."""
        return str(getattr(self, "source", None) or "")

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.config.vocab_size

    @property
    def padding_idx(self) -> int | None:
        """The padding id of the config."""
        return self.config.pad_token_id

    @property
    def tp_size(self) -> None:
        """None: a model isn't split over processes."""

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A few ids to try ``forward`` with."""
        return {"input_ids": torch.arange(3, device=self.device).remainder(self.config.vocab_size)[None]}

    @property
    def warnings_issued(self) -> dict[str, bool]:
        """Which warnings a trainer has given, by name."""
        return self.__dict__.setdefault("_warnings_issued", {})

    @classmethod
    def can_generate(cls) -> bool:
        """Return whether the class has ``generate``."""
        return hasattr(cls, "generate")

    @classmethod
    def _from_config(
        cls,
        config: ChameleonConfig,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str = "sdpa",
    ) -> Self:
        kind = dtype if torch_dtype is None else torch_dtype
        model = cls(config, attn_implementation=attn_implementation)
        return model.to(getattr(torch, kind) if isinstance(kind, str) else kind)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters, quantized weights included; the image tokenizer's aren't among them."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        count = sum(
            parameter.numel()
            for parameter in self.parameters()
            if not (only_trainable and not parameter.requires_grad)
            and not (exclude_embeddings and id(parameter) in embeddings)
        )
        quantized = [module for module in self.modules() if isinstance(module, QuantizedLinear)]
        return count if only_trainable else count + sum(each.in_features * each.out_features for each in quantized)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the size of the parameters and, unless told otherwise, of the buffers, in bytes."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(each.numel() * each.element_size() for each in tensors)

    def get_parameter_or_buffer(self, target: str) -> Tensor:
        """Return the parameter or buffer of a name. Raises ``AttributeError`` where there is none."""
        return (
            dict(self.named_buffers())[target] if target in dict(self.named_buffers()) else self.get_parameter(target)
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding table [V, E]."""
        embeddings: nn.Embedding = self.base_model.embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table [V, E]."""
        self.base_model.embed_tokens = value

    def get_output_embeddings(self) -> Any:
        """Return the output layer [V, E], None of a model without one."""
        return self._modules.get("lm_head")

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer [V, E]. Raises ``ConfigError`` where the model has none."""
        if "lm_head" not in self._modules:
            raise ConfigError(
                f"{type(self).__name__} has no output layer; ChameleonForConditionalGeneration has one to set."
            )
        self.register_module("lm_head", new_embeddings)

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Make the output layer share the weight of the embeddings, where ``config.tie_word_embeddings`` says so.

        Both arguments are those of ``transformers``, where loading needs them; the config alone decides.
        """
        head = self.get_output_embeddings()
        if head is not None and self.config.tie_word_embeddings:
            head.weight = self.get_input_embeddings().weight

    @torch.no_grad()
    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary to ``new_num_tokens``, rounded up to a multiple, and return the embeddings.

        New rows are the mean of the old ones, so that a new id starts as an average one, or those of a new model with
        ``mean_resizing=False``. New ids up to ``new_num_tokens``, without those of the rounding, may be generated: they
        are named in the config's ``vocabulary_map`` until a tokenizer that has names for them is attached. Without
        arguments nothing is resized. Raises ``ValueError`` for numbers below 1, ``ConfigError`` where the output layer
        is quantized or wrapped.
        """
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.get_input_embeddings()
        named = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        size = rounded_size(named, 1 if pad_to_multiple_of is None else pad_to_multiple_of)
        head, weight_VE = self.get_output_embeddings(), self.get_input_embeddings().weight
        if head is not None:
            check_resizable(head)
        old = self.config
        config = old.replace(
            vocab_size=size, vocabulary_map=with_added_names(old.vocabulary_map, old.vocab_size, named)
        )
        std = None if mean_resizing else config.initializer_range
        padding_id = self.get_input_embeddings().padding_idx
        embeddings = nn.Embedding(size, config.hidden_size, padding_id, _weight=resized_rows(weight_VE, size, std=std))
        embeddings.weight.requires_grad_(weight_VE.requires_grad)
        self.set_input_embeddings(embeddings)
        if head is not None:
            trains = head.weight.requires_grad
            tied = config.tie_word_embeddings
            head.weight = embeddings.weight if tied else nn.Parameter(resized_rows(head.weight, size, std=std), trains)
            head.out_features = size
        self._use_config(config)
        return embeddings

    def _use_config(self, config: ChameleonConfig) -> None:
        """Take a configuration in the place of the one that the model was made of, and fix it like that one."""
        config.keep_for_a_model(attn_implementation=self.base_model.attn_implementation)
        self.__dict__["_config"] = self.base_model.__dict__["_config"] = config

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._use_config(self.config)  # the copy of a configuration is free, that of a model's isn't

    def init_weights(self) -> None:
        """Make all weights new, with the standard deviation ``config.initializer_range``."""
        for module in self.modules():
            self._init_weights(module)
        self.tie_weights()

    def _init_weights(self, module: nn.Module) -> None:
        self.base_model._init_weights(module)

    def post_init(self) -> None:
        """Do nothing: a model is complete once it is made. Subclasses written for ``transformers`` call it."""

    def set_attn_implementation(
        self, attn_implementation: str | Mapping[str, str], allow_all_kernels: bool = False
    ) -> None:
        """Use another attention backend, by its name, or the entry "" of a mapping, as in ``from_pretrained``.

        Raises ``UnknownPluginError`` where it isn't installed, ``ConfigError`` for ``allow_all_kernels``: kernels are
        plugins that are installed, not downloaded.
        """
        if allow_all_kernels:
            raise ConfigError("allow_all_kernels=True isn't available: install a plugin with the kernel. Leave it out.")
        name = attention_name(attn_implementation)
        self.base_model._use_attention(name)
        self.config.keep_for_a_model(attn_implementation=name)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether each layer is recomputed in the backward pass in the place of keeping its activations.

        Gradients are the same from less memory, in about a third more time.
        """
        enabled: bool = self.base_model._checkpointing.enabled
        return enabled

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        if not isinstance(enabled, bool):
            raise ConfigError(f"gradient_checkpointing must be True or False; got {enabled!r:.80}.")
        self.base_model._checkpointing.enabled = enabled

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute layers in the backward pass, and let gradients reach the embeddings' output.

        ``gradient_checkpointing_kwargs`` are those of ``torch.utils.checkpoint.checkpoint``; ``use_reentrant`` is False
        unless given. Only the first of each ``every_n_layers`` layers is recomputed. Raises ``ArgumentError`` for
        options that torch doesn't have, ``ConfigError`` for ``offload``, which isn't available.
        """
        if offload:
            raise ConfigError("offload=True isn't available: activations stay on the device. Leave it out.")
        options = gradient_checkpointing_kwargs or {}
        self.base_model._checkpointing = Checkpointing(True, every_n_layers, options)
        if not self.__dict__.get("_require_grads_hooks"):
            self.enable_input_require_grads()

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations of all layers again."""
        self.base_model._checkpointing.enabled = False

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Do what ``gradient_checkpointing_enable`` does; the newer name."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Do what ``gradient_checkpointing_disable`` does; the newer name."""
        self.gradient_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return self.gradient_checkpointing

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return self.gradient_checkpointing

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the embeddings' output even where the embeddings are frozen, as adapters need it."""
        self.disable_input_require_grads()
        self._require_grads_hooks = [self.get_input_embeddings().register_forward_hook(_require_grad)]

    def disable_input_require_grads(self) -> None:
        """Undo ``enable_input_require_grads``."""
        for hook in self.__dict__.pop("_require_grads_hooks", []):
            hook.remove()

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags for a model card to ``model_tags``."""
        new = [tags] if isinstance(tags, str) else tags
        self.model_tags = list(dict.fromkeys([*(self.model_tags or ()), *new]))


def check_same_weights(old: ChameleonConfig, new: object) -> None:
    """Raise ``ConfigError`` unless a configuration describes the weights that a model of another one has."""
    if not isinstance(new, ChameleonConfig):
        raise ConfigError(f"the config of a model must be a ChameleonConfig; got a {type(new).__name__}.")
    for name in OF_THE_WEIGHTS:
        if getattr(new, name) != getattr(old, name):
            raise ConfigError(
                f"the model keeps its {name} ({getattr(old, name)!r:.80}), and the new config has "
                f"{getattr(new, name)!r:.80}. Make another model of it."
            )


def _require_grad(module: nn.Module, given: object, output: Tensor) -> None:
    output.requires_grad_(True)
