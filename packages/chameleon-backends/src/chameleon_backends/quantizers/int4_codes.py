"""The portable layout of ``int4``: codes −8 … 7, two in a byte, and how they become a weight again.

Shapes: O output features, I input features, G groups of a row, U codes of a group, J = I / 2 bytes of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = -8, 7


def join_codes(codes_OI: Tensor) -> Tensor:
    """Pack codes into ``packed_OJ``, uint8: each code plus 8, the first of two neighbours in the high half of a byte.

    That is the order in which torch's packing for CUDA takes them.
    """
    raised_OI = (codes_OI - LOWEST).to(torch.uint8)
    return raised_OI[:, ::2] << 4 | raised_OI[:, 1::2]


def split_codes(packed_OJ: Tensor) -> Tensor:
    """Unpack the codes −8 … 7 of bytes: int8 [O, I]."""
    raised_OI = torch.stack((packed_OJ >> 4, packed_OJ & 15), dim=-1).flatten(1)
    return raised_OI.to(torch.int8) + LOWEST


def scale_codes(codes_OI: Tensor, scale_OG: Tensor) -> Tensor:
    """Multiply codes with the scales of their groups: the weight [O, I] in float32."""
    groups_OGU = torch.unflatten(codes_OI.float(), 1, (scale_OG.shape[1], -1))
    return groups_OGU.mul_(scale_OG.float()[..., None]).flatten(1)
