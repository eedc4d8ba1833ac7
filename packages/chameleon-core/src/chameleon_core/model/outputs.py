"""What the models return.

Shapes: B batch, T query length, S key length, H heads, E hidden width, V vocabulary, P pictures, N codes of a picture.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..compat.outputs import ModelOutputs


class ModelOutput(ModelOutputs):
    """What ``ChameleonModel`` returns."""

    fields: ClassVar[tuple[str, ...]] = ("last_hidden_state", "past_key_values", "hidden_states", "attentions")

    last_hidden_state: Tensor
    """[B, T, E], after the final norm."""
    past_key_values: Any
    """The cache with the new positions in it: the one that was passed, or a new ``KVCache``; None without one."""
    hidden_states: tuple[Tensor, ...] | None
    """The embeddings and each layer's output, the last one normed: layers + 1 tensors [B, T, E]. None unless requested
    with ``output_hidden_states``."""
    attentions: tuple[Tensor, ...] | None
    """The attention weights of each layer, float32: tensors [B, H, T, S]. None unless requested with
    ``output_attentions``."""

    @property
    def cache(self) -> Any:
        """``past_key_values``, by its short name."""
        return self.get("past_key_values")


class CausalOutput(ModelOutputs):
    """What ``ChameleonForConditionalGeneration`` returns."""

    fields: ClassVar[tuple[str, ...]] = ("loss", "logits", "past_key_values", "hidden_states", "attentions")

    loss: Tensor | None
    """The mean cross-entropy of each label given the ids before it, a float32 scalar. None without labels."""
    logits: Tensor
    """[B, T, V], or fewer positions with ``logits_to_keep``. Raw: no id is masked."""
    past_key_values: Any
    """As in ``ModelOutput``."""
    hidden_states: tuple[Tensor, ...] | None
    """As in ``ModelOutput``: layers + 1 tensors [B, T, E], or None."""
    attentions: tuple[Tensor, ...] | None
    """As in ``ModelOutput``: a tensor [B, H, T, S] for each layer, or None."""

    @property
    def cache(self) -> Any:
        """``past_key_values``, by its short name."""
        return self.get("past_key_values")


class ImageFeatures(ModelOutputs):
    """What ``get_image_features`` returns."""

    fields: ClassVar[tuple[str, ...]] = (
        "last_hidden_state",
        "pooler_output",
        "quantized_last_hidden_state",
        "image_tokens",
        "embedding_loss",
    )

    last_hidden_state: Tensor | None
    """What the encoder of the VQ-VAE returns, [P, D, h, w]; None of an image tokenizer that has no VQ-VAE."""
    pooler_output: Tensor
    """The embeddings of the pictures' ids, [P, N, E]."""
    quantized_last_hidden_state: Tensor | None
    """The latents that the codes stand for, [P, D, h, w]; None of an image tokenizer that has no VQ-VAE."""
    embedding_loss: Tensor | None
    """The training loss of the quantizer, a scalar; None of an image tokenizer that has no VQ-VAE."""
    image_tokens: Tensor
    """The codes of all pictures, int64 [P·N]."""
