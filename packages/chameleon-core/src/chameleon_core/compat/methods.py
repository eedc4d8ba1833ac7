"""The methods that users of ``transformers`` know, for the models here.

Shapes: V vocabulary, E hidden width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from ..config import ChameleonConfig
from ..errors import ConfigError
from .resize import check_resizable, resized_rows, rounded_size


class TransformersMethods(nn.Module):
    """The base of the models, with what a model of ``transformers`` is asked for.

    ``base_model`` is the bare transformer, whose embeddings are ``embed_tokens``; the output layer, where there is one,
    is ``lm_head``.
    """

    config: ChameleonConfig
    base_model_prefix: ClassVar[str] = "model"
    """The attribute of the bare transformer in a model that has more."""
    main_input_name: ClassVar[str] = "input_ids"
    """The first argument of ``forward``."""

    @property
    def base_model(self) -> Any:
        """The bare transformer: this model, or the one in it."""
        return self._modules.get(self.base_model_prefix, self)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights that aren't quantized."""
        return self.get_input_embeddings().weight.dtype

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
                f"{type(self).__name__} has no output layer; set it on ChameleonForConditionalGeneration."
            )
        self.register_module("lm_head", new_embeddings)

    def tie_weights(self) -> None:
        """Make the output layer share the weight of the embeddings, where ``config.tie_word_embeddings`` says so."""
        head = self.get_output_embeddings()
        if head is not None and self.config.tie_word_embeddings:
            head.weight = self.get_input_embeddings().weight

    @torch.no_grad()
    def resize_token_embeddings(self, new_num_tokens: int, *, pad_to_multiple_of: int = 1) -> nn.Embedding:
        """Grow or shrink the vocabulary to ``new_num_tokens``, rounded up to a multiple, and return the embeddings.

        New rows are the mean of the old ones, so that a new id starts as an average one. Raises ``ValueError`` for
        numbers below 1, ``ConfigError`` where the output layer is quantized or wrapped.
        """
        size = rounded_size(new_num_tokens, pad_to_multiple_of)
        head, weight_VE = self.get_output_embeddings(), self.get_input_embeddings().weight
        if head is not None:
            check_resizable(head)
        config = self.config.replace(vocab_size=size)
        embeddings = nn.Embedding(size, config.hidden_size, _weight=resized_rows(weight_VE, size))
        self.set_input_embeddings(embeddings)
        if head is not None:
            tied = config.tie_word_embeddings
            head.weight = embeddings.weight if tied else nn.Parameter(resized_rows(head.weight, size))
            head.out_features = size
        self.config = self.base_model.config = config
        self.__dict__.pop("layout", None)
        return embeddings
