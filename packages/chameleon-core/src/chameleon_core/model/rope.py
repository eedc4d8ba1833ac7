"""Rotary position embedding (RoPE, arXiv 2104.09864), with the linear and dynamic scaling of ``transformers``.

Shapes: B batch, T query length, P positions of a table, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._moved import moved_names
from ..config import ChameleonConfig

_LEAST_POSITIONS = 256


class RotaryEmbedding(NamedTuple):
    """The cosines and sines of one forward pass, in the dtype of the hidden states.

    The first half of ``sin_BT1D`` is negated, since rotating (x, y) gives (x · cos − y · sin, y · cos + x · sin).
    """

    cos_BT1D: Tensor
    sin_BT1D: Tensor


def rotary_embedding(
    config: ChameleonConfig, position_ids_BT: Tensor, dtype: torch.dtype, *, lengths_BT1: Tensor | None = None
) -> RotaryEmbedding:
    """Return the rotary embedding of each position, computed in float32 and cast to ``dtype``.

    ``linear`` scaling divides the frequencies by the factor. ``dynamic`` scaling (NTK-aware) raises the base when the
    longest row of the batch exceeds the trained length, as ``transformers`` does; beyond that length the angles of a
    row depend on the rest of the batch, unless ``lengths_BT1`` gives each position the length of its own row.
    """
    frequencies_D = _inverse_frequencies(config, position_ids_BT, lengths_BT1)
    angles_BTD = position_ids_BT[..., None].float() * frequencies_D
    # Both halves of a head rotate by the same angles.
    cos_BTD, sin_BTD = angles_BTD.cos(), angles_BTD.sin()
    cos_BT1D = torch.cat((cos_BTD, cos_BTD), dim=-1)[:, :, None]
    sin_BT1D = torch.cat((-sin_BTD, sin_BTD), dim=-1)[:, :, None]
    return RotaryEmbedding(cos_BT1D.to(dtype), sin_BT1D.to(dtype))


class RotaryTable:
    """The rotary embeddings of one model's positions, computed once and then looked up.

    Not of ``dynamic`` scaling, whose angles depend on the length of the row.
    """

    def __init__(self) -> None:
        # One tuple, replaced as a whole, because two threads may look up at the same time.
        self._kept: tuple[RotaryEmbedding, int] | None = None

    def look_up(
        self, config: ChameleonConfig, positions: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> RotaryEmbedding:
        """Return the rotary embeddings of positions, with B = 1 and T of them."""
        kept, end = self._kept, max(positions) + 1
        if kept is None or kept[1] < end or (kept[0].cos_BT1D.dtype, kept[0].cos_BT1D.device) != (dtype, device):
            size = max(_LEAST_POSITIONS, 1 << (end - 1).bit_length())
            table = rotary_embedding(config, torch.arange(size, device=device)[None], dtype)
            kept = self._kept = table, size
        positions_T = torch.tensor(positions, device=device)
        return RotaryEmbedding(*(each_1P1D.index_select(1, positions_T) for each_1P1D in kept[0]))


def apply_rotary(states_BTHD: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """Rotate each pair (i, i + D/2) of a head by its angle, the layout of published checkpoints."""
    return states_BTHD * rotary.cos_BT1D + states_BTHD.roll(states_BTHD.shape[-1] // 2, dims=-1) * rotary.sin_BT1D


def _inverse_frequencies(config: ChameleonConfig, position_ids_BT: Tensor, lengths_BT1: Tensor | None) -> Tensor:
    width = config.head_dim
    base: float | Tensor = config.rope_theta
    if config.rope_type == "dynamic":
        trained = config.max_position_embeddings
        longest = position_ids_BT.max() + 1 if lengths_BT1 is None else lengths_BT1
        length = longest.clamp(min=trained)
        base = base * ((config.rope_factor * length / trained) - (config.rope_factor - 1)) ** (width / (width - 2))
    exponents_D = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids_BT.device) / width
    frequencies_D = 1.0 / (base**exponents_D)
    return frequencies_D / config.rope_factor if config.rope_type == "linear" else frequencies_D


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "Rotation": "chameleon_core.model.rope:RotaryEmbedding",
            "rotation": "chameleon_core.model.rope:rotary_embedding",
            "rotate": "chameleon_core.model.rope:apply_rotary",
        },
    )
