"""Where ids are among those that may be chosen, and how some of them are forbidden.

Shapes: R rows, A ids that may be chosen, V vocabulary, X any number of ids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .contract import FORBIDDEN


def places(ids_A: Tensor, ids_X: Tensor) -> Tensor:
    """Return the column of each id among ``ids_A``, int64 [X]; A where it isn't among them."""
    place_V = _place_of_each(ids_A)
    return place_V[ids_X.clamp(max=len(place_V) - 1)]


def with_spare_column(logits_RA: Tensor) -> Tensor:
    """Return a copy of logits with column A, where changes for ids that may not be chosen go."""
    return pad(logits_RA, (0, 1))


def forbid(logits_RA: Tensor, ids_A: Tensor, forbidden: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits with the ids that each row may not choose forbidden."""
    if not any(forbidden):
        return logits_RA
    rows = [row for row, ids in enumerate(forbidden) for _ in ids]
    rows_X, ids_X = torch.tensor([rows, [each for ids in forbidden for each in ids]], device=ids_A.device)
    changed_RA = with_spare_column(logits_RA)
    changed_RA[rows_X, places(ids_A, ids_X)] = FORBIDDEN
    return changed_RA[:, :-1]


# A tensor is hashed by its identity, and those that are kept can't be freed and replaced by others.
@functools.lru_cache(maxsize=8)
def _place_of_each(ids_A: Tensor) -> Tensor:
    """Return the column of each id of the vocabulary [V + 1], up to the highest that may be chosen and one beyond."""
    with torch.inference_mode(False):
        highest = int(ids_A.max()) if len(ids_A) else -1
        place_V = torch.full((highest + 2,), len(ids_A), device=ids_A.device)
        place_V[ids_A] = torch.arange(len(ids_A), device=ids_A.device)
    return place_V
