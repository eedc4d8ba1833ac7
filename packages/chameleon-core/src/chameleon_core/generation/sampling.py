"""Sampling: from processed logits to a choice. Without noise it is the likeliest one.

Shapes: R rows, A ids that may be chosen (of text, or the codes of a picture), X those that any row may choose.
"""

from __future__ import annotations

from torch import Tensor

from .noise import argmax_with_noise
from .processors.contract import FORBIDDEN


def choose(logits_RA: Tensor, noise_RA: Tensor | None = None) -> Tensor:
    """Return the place of each row's likeliest choice, int64 [R]: the first where several are equally likely.

    With Gumbel noise, which the logits' float32 keeps, that is a sample of the softmax of the logits.
    """
    return (logits_RA if noise_RA is None else logits_RA + noise_RA).argmax(dim=-1)


def choose_sampled(logits_RA: Tensor, ids_A: Tensor, keys_R: Tensor) -> Tensor:
    """Return what ``choose`` returns with ``gumbel_noise(keys_R, ids_A)``, without noise for what no row may choose.

    After truncation that is nearly everything, and the noise is most of the work.
    """
    is_allowed_A = (logits_RA[0] if len(logits_RA) == 1 else logits_RA.amax(dim=0)) > FORBIDDEN
    allowed_X = is_allowed_A.nonzero()[:, 0]
    if 2 * len(allowed_X) > len(ids_A):
        return argmax_with_noise(logits_RA, keys_R, ids_A)
    return allowed_X[argmax_with_noise(logits_RA[:, allowed_X], keys_R, ids_A[allowed_X])]
