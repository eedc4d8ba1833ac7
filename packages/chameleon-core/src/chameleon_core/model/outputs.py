"""What the models return.

Shapes: B batch, T query length, S key length, H heads, E hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .cache import KVCache


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What ``ChameleonModel`` returns."""

    last_hidden_state: Tensor
    """[B, T, E], after the final norm."""
    hidden_states: tuple[Tensor, ...] | None
    """The embeddings and each layer's output, the last one normed: layers + 1 tensors [B, T, E]. None unless requested
    with ``output_hidden_states``."""
    attentions: tuple[Tensor, ...] | None
    """The attention weights of each layer: tensors [B, H, T, S]. None unless requested with ``output_attentions``."""
    cache: KVCache | None
    """The cache that was passed, with the new positions in it."""


@dataclass(frozen=True, slots=True)
class CausalOutput:
    """What ``ChameleonForConditionalGeneration`` returns."""

    logits: Tensor
    """[B, T, V], or fewer positions with ``logits_to_keep``. Raw: no id is masked."""
    loss: Tensor | None
    """The mean cross-entropy of each label given the ids before it, a float32 scalar. None without labels."""
    hidden_states: tuple[Tensor, ...] | None
    """As in ``ModelOutput``: layers + 1 tensors [B, T, E], or None."""
    attentions: tuple[Tensor, ...] | None
    """As in ``ModelOutput``: a tensor [B, H, T, S] for each layer, or None."""
    cache: KVCache | None
    """The cache that was passed, with the new positions in it."""
