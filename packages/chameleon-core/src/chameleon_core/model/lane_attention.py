"""Attention of lanes that have lengths of their own: which lanes one call of a kernel serves, and the calls.

All new positions of a pass lie in one row, lane after lane, so that no layer computes padding.

Shapes: M flattened positions of all lanes, L lanes of a group, T query length, S key length, H heads, K key/value
heads, X either heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chameleon_backends import AttentionBackend, AttentionSpec

from ..config import ChameleonConfig
from .attention_context import computed_dtype
from .lane_cache import CachedLane, LaneCache, LaneGroup
from .rope import RotaryEmbedding, rotary_embedding


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What all layers of one pass over lanes share; the counterpart of ``AttentionContext``."""

    rotary: RotaryEmbedding
    """The rotation of each new position."""
    backend: AttentionBackend
    cache: LaneCache
    groups: Sequence[tuple[LaneGroup, Any]]
    """The groups, in the order of the positions, each with what ``backend.plan`` returned."""
    attentions: None = None
    is_pure: bool = False

    def attend(
        self,
        layer: int,
        query_1MHD: Tensor,
        key_1MKD: Tensor,
        value_1MKD: Tensor,
        *,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Store a layer's new keys and values and return the attention of its new positions, [1, M, H, D]."""
        if len(self.groups) == 1:  # a step of few calls for each layer
            ((group, prepared),) = self.groups
            return self._attend_group(layer, group, prepared, (query_1MHD, key_1MKD, value_1MKD), scale, dropout)
        outputs = []
        start = 0
        for group, prepared in self.groups:
            positions = len(group.lengths) * group.count
            own = [states.narrow(1, start, positions) for states in (query_1MHD, key_1MKD, value_1MKD)]
            outputs.append(self._attend_group(layer, group, prepared, own, scale, dropout))
            start += positions
        return torch.cat(outputs, dim=1)

    def _attend_group(
        self,
        layer: int,
        group: LaneGroup,
        prepared: Any,
        states: Sequence[Tensor],
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Do what ``attend`` does for one group, whose queries, keys and values are ``states``."""
        rows, count = len(group.lengths), group.count
        query_LTHD, key_LTKD, value_LTKD = (each_1MXD.view(rows, count, *each_1MXD.shape[2:]) for each_1MXD in states)
        key_LSKD, value_LSKD = self.cache.append(layer, group, key_LTKD, value_LTKD)
        out_LTHD = self.backend.attend(query_LTHD, key_LSKD, value_LSKD, prepared, scale=scale, dropout=dropout)
        return out_LTHD.reshape(1, rows * count, *out_LTHD.shape[2:])


def plan_lanes(
    config: ChameleonConfig,
    backend: AttentionBackend,
    cache: LaneCache,
    feeds: Sequence[tuple[CachedLane, int]],
    *,
    weight: Tensor,
    num_head_parts: int = 1,
) -> LaneContext:
    """Group the lanes of a pass and plan their attention.

    ``feeds`` are the lanes with the number of new positions of each, sorted by ``lane_order`` and with room reserved.
    ``weight`` is one of the model's, whose dtype and device the hidden states have. ``num_head_parts`` processes have
    equal parts of the heads.
    """
    dtype, device = computed_dtype(weight), weight.device
    groups: list[tuple[LaneGroup, Any]] = []
    start = 0
    while start < len(feeds):
        end = start + 1
        while end < len(feeds) and _together(feeds[end - 1], feeds[end]):
            end += 1
        group = lane_group([lane for lane, _ in feeds[start:end]], feeds[start][1], device)
        groups.append((group, backend.plan(_spec(config, group, dtype, device, num_head_parts))))
        start = end
    positions = [position for lane, count in feeds for position in range(lane.length, lane.length + count)]
    if config.rope_type == "dynamic":
        lengths_1M1 = torch.tensor(
            [[[lane.length + count] for lane, count in feeds for _ in range(count)]], device=device
        )
        positions_1M = torch.tensor([positions], device=device)
        rotary = rotary_embedding(config, positions_1M, weight.dtype, lengths_BT1=lengths_1M1)
    else:
        rotary = cache.rotary.look_up(config, positions, weight.dtype, device)
    return LaneContext(rotary, backend, cache, groups)


def lane_order(lane: CachedLane) -> tuple[int, int]:
    """Return the key by which the lanes of a pass are sorted, so that neighbours in a slab follow each other."""
    return lane.capacity, lane.slot


def _together(one: tuple[CachedLane, int], other: tuple[CachedLane, int]) -> bool:
    """Return whether one call can serve two lanes.

    The contract aligns the queries with the last keys, so lanes of different lengths need one query each, whose keys
    end where the mask says.
    """
    (lane, count), (next_lane, next_count) = one, other
    neighbours = lane.slab is next_lane.slab and next_lane.slot == lane.slot + 1
    return neighbours and count == next_count and (count == 1 or lane.length == next_lane.length)


def lane_group(lanes: Sequence[CachedLane], count: int, device: torch.device) -> LaneGroup:
    """Return neighbouring lanes of a slab as a group; each gets ``count`` new positions."""
    lengths = tuple(lane.length for lane in lanes)
    key_end_L = None if len(set(lengths)) == 1 else torch.tensor([length + count for length in lengths], device=device)
    return LaneGroup(lanes[0].slab, lanes[0].slot, lengths, count, key_end_L)


def _spec(
    config: ChameleonConfig, group: LaneGroup, dtype: torch.dtype, device: torch.device, parts: int
) -> AttentionSpec:
    return AttentionSpec(
        batch_size=len(group.lengths),
        query_length=group.count,
        key_length=group.key_length,
        num_heads=config.num_attention_heads // parts,
        num_key_value_heads=config.num_key_value_heads // parts,
        head_dim=config.head_dim,
        dtype=dtype,
        device=device,
        key_end_B=group.key_end_L,
    )
