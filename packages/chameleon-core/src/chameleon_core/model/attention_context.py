"""What all attention layers of one forward pass share: rotary embedding, attention plan, padding and cache.

Shapes: B batch, T query length, S key length (cached positions and new ones), H heads, K key/value heads, D head
width, E hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chameleon_backends import AttentionBackend, AttentionSpec, AttentionWeightsBackend

from ..config import ChameleonConfig
from ..errors import InputError
from .cache import KVCache
from .rope import RotaryEmbedding, rotary_embedding


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """What all layers of one forward pass share."""

    rotary: RotaryEmbedding
    """The rotation of each new position."""
    backend: AttentionBackend
    prepared: Any
    """What ``backend.plan`` returned."""
    cache: KVCache | None
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
        if self.attentions is not None and isinstance(self.backend, AttentionWeightsBackend):
            self.attentions.append(self.backend.attention_weights(query_BTHD, key_BSKD, self.prepared, scale=scale))
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
    cache: KVCache | None,
    attentions: list[Tensor] | None,
    training: bool,
) -> AttentionContext:
    """Check the inputs of a forward pass, find each row's padding and positions, and plan its attention.

    ``attention_mask``, ``position_ids``, ``document_ids`` and ``cache`` are those of ``ChameleonModel.forward``; the
    padding that the mask shows is recorded in the cache. Raises ``InputError`` where shapes don't match or the mask
    has holes.
    """
    batch_size, query_length, _ = hidden_BTE.shape
    past = 0 if cache is None else cache.length
    starts, ends = _padding(attention_mask, batch_size, past + query_length, cache)
    key_start_B = torch.tensor(starts, device=hidden_BTE.device) if any(starts) else None
    key_end_B = None if ends is None else torch.tensor(ends, device=hidden_BTE.device)
    _check_documents(document_ids, batch_size, past + query_length)
    spec = AttentionSpec(
        batch_size=batch_size,
        query_length=query_length,
        key_length=past + query_length,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        dtype=computed_dtype(hidden_BTE),
        device=hidden_BTE.device,
        requires_grad=torch.is_grad_enabled(),
        dropout=training and config.attention_dropout > 0,
        key_start_B=key_start_B,
        key_end_B=key_end_B,
        document_ids_BS=document_ids,
    )
    position_ids_BT = _positions(position_ids, spec)
    return AttentionContext(
        rotary=rotary_embedding(config, position_ids_BT, hidden_BTE.dtype),
        backend=backend,
        prepared=backend.plan(spec),
        cache=cache,
        attentions=attentions,
    )


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


def _padding(
    attention_mask: Tensor | None, batch_size: int, key_length: int, cache: KVCache | None
) -> tuple[Sequence[int], Sequence[int] | None]:
    """Return each row's first real slot, and the slot after its last one where some row is padded on the right."""
    if cache is not None and cache.batch_size != batch_size:
        raise InputError(f"the cache holds {cache.batch_size} rows; the batch has {batch_size}.")
    if attention_mask is None:
        return (cache.starts if cache is not None else (0,) * batch_size), None
    if tuple(attention_mask.shape) != (batch_size, key_length):
        raise InputError(
            f"attention_mask must be [{batch_size}, {key_length}] (cached and new positions); "
            f"got {list(attention_mask.shape)}."
        )
    real_BS = attention_mask.bool()
    # argmax finds the first True; a row without one is all padding.
    starts = real_BS.int().argmax(dim=1).masked_fill(~real_BS.any(dim=1), key_length).tolist()
    ends = [start + count for start, count in zip(starts, real_BS.sum(dim=1).tolist(), strict=True)]
    slots_1S = torch.arange(key_length, device=real_BS.device)[None]
    start_B1 = torch.tensor(starts, device=real_BS.device)[:, None]
    end_B1 = torch.tensor(ends, device=real_BS.device)[:, None]
    if not torch.equal(real_BS, (slots_1S >= start_B1) & (slots_1S < end_B1)):
        raise InputError(
            "attention_mask has holes: the real positions of a row must be contiguous, with padding on one side."
        )
    right_padded = any(end < key_length for end in ends)
    if cache is not None:
        if right_padded:
            raise InputError("a cache needs padding on the left, because new positions follow a row's last one.")
        # A row that was all padding may start in this pass or later; one that has started can't move.
        if [min(start, cache.length) for start in starts] != [min(start, cache.length) for start in cache.starts]:
            raise InputError(
                f"attention_mask starts the rows at {starts}; the cache was filled with starts {list(cache.starts)}."
            )
        cache.pad(starts)
    return starts, (ends if right_padded else None)
