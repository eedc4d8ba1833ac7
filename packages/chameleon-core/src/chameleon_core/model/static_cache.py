"""The cache ``static``: every lane has room for the whole context from its start, at addresses that don't change.

A step that feeds each lane one id then has the same shapes whatever the lengths are, so that ``torch.compile`` compiles
it once and CUDA graphs replay it. Every row of the memory is computed, with a lane or without one, and every position
of a row is attended to under a mask: more arithmetic, fewer launches.

Shapes: R rows of the memory, L lanes that are fed, K key/value heads, H heads, S key length, D head width, E hidden
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chameleon_backends import AttentionBackend, AttentionSpec

from ..config import ChameleonConfig
from .attention_context import computed_dtype
from .lane_cache import CachedLane, LaneCache, RoomySlab, Slab
from .rope import RotaryEmbedding, rotary_embedding


class SteppingModel(Protocol):
    """What a step needs of a transformer; ``ChameleonModel`` is one."""

    config: ChameleonConfig
    attention_backend: AttentionBackend
    embed_tokens: nn.Embedding

    def decoding_step(self, ids_R1: Tensor, context: StaticContext, /) -> Tensor:
        """Return the final hidden states [R, 1, E]."""
        ...


class StaticLaneCache(LaneCache):
    """Keys and values as the model computes them, in lanes of ``context_length`` positions."""

    _slab_type = RoomySlab

    def __init__(self, num_layers: int, context_length: int) -> None:
        super().__init__(num_layers)
        self.context_length = context_length

    def capacity_for(self, length: int) -> int:
        """Return the capacity of every lane: one for all, whatever the length."""
        return max(self.context_length, length)

    def step(self, model: SteppingModel, feeds: Sequence[tuple[CachedLane, Sequence[int]]]) -> Tensor | None:
        """Feed each lane one id and return the final hidden states [L, E].

        None, with nothing done, where that isn't a step of one shape: a lane is fed more ids, or has none so far.
        """
        slabs = {id(lane.slab) for lane, _ in feeds}
        slab = feeds[0][0].slab
        fed = {lane.slot: ids[0] for lane, ids in feeds if len(ids) == 1}
        if len(slabs) > 1 or len(fed) < len(feeds) or not all(slab.layers):
            return None
        # Rows that aren't fed get a key beyond their length, which the next one replaces; a full lane has no room.
        lengths = [lane.length for lane in slab.lanes] + [0] * (slab.rows - len(slab.lanes))
        if any(length >= slab.capacity for length in lengths):
            return None
        for layer in range(self.num_layers):
            slab._make_room(layer)
        device = model.embed_tokens.weight.device
        ids_R1 = torch.tensor([[fed.get(row, 0)] for row in range(slab.rows)], device=device)
        context = _context(model, slab, torch.tensor(lengths, device=device))
        hidden_R1E = model.decoding_step(ids_R1, context)
        self.advance([(lane, 1) for lane, _ in feeds])
        return hidden_R1E[[lane.slot for lane, _ in feeds], 0]


@dataclass(frozen=True, slots=True)
class StaticContext:
    """What all layers of a step share; the counterpart of ``LaneContext``, of one shape."""

    rotary: RotaryEmbedding
    """The rotation of each row's position."""
    backend: AttentionBackend
    prepared: Any
    """What ``backend.plan`` returned."""
    rows_R: Tensor
    """int64, 0 … R − 1."""
    lengths_R: Tensor
    """int64, the position of each row's new id."""
    stored: tuple[Tensor, ...]
    """The keys and values of each layer, [2, R, K, S, D]."""
    attentions: None = None
    is_pure: bool = False

    def attend(
        self,
        layer: int,
        query_R1HD: Tensor,
        key_R1KD: Tensor,
        value_R1KD: Tensor,
        *,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Store a layer's new keys and values and return the attention of the new positions, [R, 1, H, D]."""
        keys_RKSD, values_RKSD = self.stored[layer][0], self.stored[layer][1]
        keys_RKSD[self.rows_R, :, self.lengths_R] = key_R1KD[:, 0]
        values_RKSD[self.rows_R, :, self.lengths_R] = value_R1KD[:, 0]
        key_RSKD, value_RSKD = keys_RKSD.transpose(1, 2), values_RKSD.transpose(1, 2)
        return self.backend.attend(query_R1HD, key_RSKD, value_RSKD, self.prepared, scale=scale, dropout=dropout)


def _context(model: SteppingModel, slab: Slab, lengths_R: Tensor) -> StaticContext:
    config, weight = model.config, model.embed_tokens.weight
    spec = AttentionSpec(
        batch_size=slab.rows,
        query_length=1,
        key_length=slab.capacity,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        dtype=computed_dtype(weight),
        device=weight.device,
        key_end_B=lengths_R + 1,
    )
    positions_R1 = lengths_R[:, None]
    lengths_R11 = positions_R1[..., None] + 1 if config.rope_type == "dynamic" else None
    rotary = rotary_embedding(config, positions_R1, weight.dtype, lengths_BT1=lengths_R11)
    rows_R = torch.arange(slab.rows, device=weight.device)
    stored = tuple(parts[0] for parts in slab.layers)
    for part in stored:
        # CUDA graphs would copy what a step changes, unless its address is known to stay.
        torch._dynamo.mark_static_address(part)
    return StaticContext(rotary, model.attention_backend, model.attention_backend.plan(spec), rows_R, lengths_R, stored)


def static_cache(config: ChameleonConfig) -> StaticLaneCache:
    """Return a cache for a model of this configuration."""
    return StaticLaneCache(config.num_hidden_layers, config.context_length)
