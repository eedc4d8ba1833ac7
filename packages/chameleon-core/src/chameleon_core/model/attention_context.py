"""What all attention layers of one forward pass share: rotary embedding, attention plan, padding and cache.

Shapes: B batch, T query length, S key length (cached positions and new ones), H heads, K key/value heads, D head
width, E hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chameleon_backends import AttentionBackend, AttentionSpec, AttentionWeightsBackend, visible_keys

from ..compat.caches import ForeignCache
from ..config import ChameleonConfig
from ..errors import InputError
from .cache import KVCache
from .dense_attention import DenseAttention, DenseMask, weighted_values
from .padding import Padding, read_padding
from .rope import RotaryEmbedding, rotary_embedding


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """What all layers of one forward pass share."""

    rotary: RotaryEmbedding
    """The rotation of each new position."""
    backend: AttentionBackend | DenseAttention
    prepared: Any
    """What ``backend.plan`` returned, or the mask of ``DenseAttention``."""
    cache: KVCache | ForeignCache | None
    """Where the layers store their keys and values and read the earlier ones."""
    attentions: list[Tensor] | None
    """Where the layers append their attention weights [B, H, T, S], when they are requested."""

    def attend(
        self,
        layer: int,
        query_BTHD: Tensor,
        key_BTKD: Tensor,
        value_BTKD: Tensor,
        *,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Return a layer's attention [B, T, H, D], after storing its new keys and values where there is a cache."""
        key_BSKD, value_BSKD = key_BTKD, value_BTKD
        if self.cache is not None:
            key_BSKD, value_BSKD = self.cache.update(layer, key_BTKD, value_BTKD)
        if self.attentions is not None and isinstance(self.backend, AttentionWeightsBackend | DenseAttention):
            weights_BHTS = self.backend.attention_weights(query_BTHD, key_BSKD, self.prepared, scale=scale)
            self.attentions.append(weights_BHTS)
            # The output depends on the weights that are returned, so that gradients with respect to them exist.
            return weighted_values(weights_BHTS, value_BSKD, dropout=dropout)
        return self.backend.attend(query_BTHD, key_BSKD, value_BSKD, self.prepared, scale=scale, dropout=dropout)

    @property
    def is_pure(self) -> bool:
        """Whether a layer has no side effects, so that it may run twice: it stores no keys and no weights."""
        return self.cache is None and self.attentions is None


def prepare_attention(
    config: ChameleonConfig,
    backend: AttentionBackend,
    hidden_BTE: Tensor,
    *,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    document_ids: Tensor | None,
    cache: KVCache | ForeignCache | None,
    attentions: list[Tensor] | None,
    training: bool,
    num_head_parts: int = 1,
) -> AttentionContext:
    """Check the inputs of a forward pass, find each row's padding and positions, and plan its attention.

    ``attention_mask``, ``position_ids``, ``document_ids`` and ``cache`` are those of ``ChameleonModel.forward``; the
    padding that the mask shows is recorded in the cache. A mask that the contract of backends has no rule for is
    applied by ``DenseAttention``, whatever the backend. ``num_head_parts`` processes have equal parts of the heads.
    Raises ``InputError`` where shapes don't match.
    """
    batch_size, query_length, _ = hidden_BTE.shape
    key_length = query_length + (0 if cache is None else cache.length)
    padding = read_padding(attention_mask, batch_size, query_length, cache, hidden_BTE.device)
    _check_documents(document_ids, batch_size, key_length)
    spec = AttentionSpec(
        batch_size=batch_size,
        query_length=query_length,
        key_length=key_length,
        num_heads=config.num_attention_heads // num_head_parts,
        num_key_value_heads=config.num_key_value_heads // num_head_parts,
        head_dim=config.head_dim,
        dtype=computed_dtype(hidden_BTE),
        device=hidden_BTE.device,
        requires_grad=torch.is_grad_enabled(),
        dropout=training and config.attention_dropout > 0,
        key_start_B=padding.start_B,
        key_end_B=padding.end_B,
        document_ids_BS=document_ids,
    )
    position_ids_BT = _positions(position_ids, spec)
    return AttentionContext(
        rotary=rotary_embedding(config, position_ids_BT, hidden_BTE.dtype),
        backend=DenseAttention() if padding.is_dense else backend,
        prepared=_dense_mask(padding, spec) if padding.is_dense else backend.plan(spec),
        cache=cache,
        attentions=attentions,
    )


def _dense_mask(padding: Padding, spec: AttentionSpec) -> DenseMask:
    if padding.mask_BXTS is None:
        assert padding.visible_BS is not None
        return DenseMask.of((visible_keys(spec) & padding.visible_BS[:, None])[:, None], spec.dtype)
    if spec.document_ids_BS is not None:
        raise InputError("a mask of four dimensions says which documents see each other; leave document_ids out.")
    return DenseMask.of(padding.mask_BXTS, spec.dtype)


def computed_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that a linear layer gives a tensor: under autocast, autocast's own."""
    kind = tensor.device.type
    if tensor.is_floating_point() and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype


def _check_documents(document_ids: Tensor | None, batch_size: int, key_length: int) -> None:
    if document_ids is not None and (
        document_ids.dtype != torch.int64 or tuple(document_ids.shape) != (batch_size, key_length)
    ):
        raise InputError(
            f"document_ids must be int64 [{batch_size}, {key_length}] (cached and new positions); got "
            f"{document_ids.dtype} {list(document_ids.shape)}."
        )


def _positions(position_ids: Tensor | None, spec: AttentionSpec) -> Tensor:
    """Return the positions of new ids, counted from each row's first real one unless they are given."""
    if position_ids is None:
        slots_1T = torch.arange(spec.key_length - spec.query_length, spec.key_length, device=spec.device)[None]
        return slots_1T if spec.key_start_B is None else (slots_1T - spec.key_start_B[:, None]).clamp(min=0)
    if position_ids.shape not in ((spec.batch_size, spec.query_length), (1, spec.query_length)):
        raise InputError(
            f"position_ids must be [{spec.batch_size}, {spec.query_length}] or [1, {spec.query_length}]; "
            f"got {list(position_ids.shape)}."
        )
    if position_ids.is_floating_point() or position_ids.dtype == torch.bool:
        raise InputError(f"position_ids is {position_ids.dtype}; expected int64.")
    return position_ids
