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
    # Two neighbours as one number, whose lower byte is the first of them.
    pair_OJ = (codes_OI.contiguous() - LOWEST).view(torch.int16)
    return (pair_OJ << 4 | pair_OJ >> 8).to(torch.uint8)


def split_codes(packed_OJ: Tensor) -> Tensor:
    """Unpack the codes −8 … 7 of bytes: int8 [O, I]."""
    byte_OJ = packed_OJ.to(torch.int16)
    return (byte_OJ >> 4 | (byte_OJ & 15) << 8).view(torch.int8).add_(LOWEST)


def scale_codes(codes_OI: Tensor, scale_OG: Tensor) -> Tensor:
    """Multiply codes with the scales of their groups: the weight [O, I] in float32."""
    groups_OGU = torch.unflatten(codes_OI.float(), 1, (scale_OG.shape[1], -1))
    return groups_OGU.mul_(scale_OG.float()[..., None]).flatten(1)
