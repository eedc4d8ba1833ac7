"""The processors of sampling: the temperature, and truncation to the likeliest or the most typical ids.

Each keeps at least one id of a row. Ids that are equally likely stay or go together, whatever their order.

Shapes: R rows, A ids that may be chosen, X ids that are looked at first.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import checked_number
from .contract import StatelessProcessor

LOOKED_AT = (8, 32, 512)
"""How many of the highest ids are sorted first, and then; all are where those don't hold the mass."""
MOST_OF_TOP_H = 100
"""How many ids top-h keeps at most."""


class Temperature(StatelessProcessor):
    """Divides the logits by ``temperature``, 1e-6…1e6; below 1, likely ids become likelier."""

    def __init__(self, temperature: float) -> None:
        self.temperature = checked_number("temperature", "temperature", temperature, "1e-6…1e6")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits relative to the largest, divided by the temperature, so that nothing overflows."""
        return (logits_RA - logits_RA.amax(dim=-1, keepdim=True)).div_(self.temperature)


class TopK(StatelessProcessor):
    """Keeps the ``k`` likeliest ids, ≥ 1, and those as likely as the last of them."""

    def __init__(self, k: int) -> None:
        self.k = int(checked_number("top-k", "k", k, "≥ 1", kind=int))

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the likeliest ids."""
        if self.k >= logits_RA.shape[-1]:
            return logits_RA
        return _at_least(logits_RA, logits_RA.topk(self.k, dim=-1).values[:, -1:], logits_RA)


class TopP(StatelessProcessor):
    """Keeps the smallest set of the likeliest ids that holds the probability ``p``, in (0, 1] (arXiv 1904.09751)."""

    def __init__(self, p: float) -> None:
        self.p = checked_number("top-p", "p", p, "in (0, 1]")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the nucleus."""
        if self.p == 1:
            return logits_RA
        probabilities_RA = logits_RA.softmax(dim=-1)
        return _at_least(probabilities_RA, _threshold(probabilities_RA, probabilities_RA, self.p), logits_RA)


class MinP(StatelessProcessor):
    """Keeps ids with at least the share ``p`` of the likeliest one's probability, in [0, 1) (arXiv 2407.01082)."""

    def __init__(self, p: float) -> None:
        self.p = checked_number("min-p", "p", p, "in [0, 1)")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the ids that are likely enough."""
        probabilities_RA = logits_RA.softmax(dim=-1)
        return _at_least(probabilities_RA, self.p * probabilities_RA.amax(dim=-1, keepdim=True), logits_RA)


class Typical(StatelessProcessor):
    """Keeps the ids nearest to typical that together hold the probability ``p``, in (0, 1] (arXiv 2202.00666).

    An id is typical where −log of its probability is near the entropy of all ids.
    """

    def __init__(self, p: float) -> None:
        self.p = checked_number("typical", "p", p, "in (0, 1]")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the typical ids."""
        if self.p == 1:
            return logits_RA
        logs_RA = logits_RA.log_softmax(dim=-1)
        probabilities_RA = logs_RA.exp()
        nearness_RA = -(logs_RA + _entropy(logs_RA)).abs()
        return _at_least(nearness_RA, _threshold(nearness_RA, probabilities_RA, self.p), logits_RA)


class Epsilon(StatelessProcessor):
    """Keeps ids of at least the probability ``cutoff``, in (0, 1) (arXiv 2210.15191, section 2)."""

    def __init__(self, cutoff: float) -> None:
        self.cutoff = checked_number("epsilon", "cutoff", cutoff, "in (0, 1)")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the ids that are likely enough, and of the likeliest."""
        probabilities_RA = logits_RA.softmax(dim=-1)
        return _at_least(probabilities_RA, _with_the_likeliest(self.cutoff, probabilities_RA), logits_RA)


class Eta(StatelessProcessor):
    """Keeps ids above a probability that falls with the entropy of all ids, at most ``cutoff``, in (0, 1).

    It is the smaller of ``cutoff`` and √cutoff · exp(−entropy) (arXiv 2210.15191, section 3).
    """

    def __init__(self, cutoff: float) -> None:
        self.cutoff = checked_number("eta", "cutoff", cutoff, "in (0, 1)")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the ids that are likely enough, and of the likeliest."""
        logs_RA = logits_RA.log_softmax(dim=-1)
        probabilities_RA = logs_RA.exp()
        eta_R1 = (self.cutoff**0.5 * (-_entropy(logs_RA)).exp()).clamp(max=self.cutoff)
        return _at_least(probabilities_RA, _with_the_likeliest(eta_R1, probabilities_RA), logits_RA)


class TopH(StatelessProcessor):
    """Keeps the likeliest ids that together have the share ``h``, in (0, 1], of the entropy (arXiv 2509.02510).

    The entropy is that of the 100 likeliest ids, beyond which none is kept.
    """

    def __init__(self, h: float) -> None:
        self.h = checked_number("top-h", "h", h, "in (0, 1]")

    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[Any], /) -> Tensor:
        """Return the logits of the likeliest ids, at least one."""
        highest_RX = logits_RA.topk(min(MOST_OF_TOP_H, logits_RA.shape[-1]), dim=-1).values
        logs_RX = highest_RX.log_softmax(dim=-1)
        terms_RX = -logs_RX.exp() * logs_RX.clamp(min=torch.finfo(logs_RX.dtype).min)
        kept_RX = terms_RX.cumsum(dim=-1) <= self.h * terms_RX.sum(dim=-1, keepdim=True)
        last_R1 = (kept_RX.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
        return _at_least(logits_RA, highest_RX.gather(-1, last_R1), logits_RA)


def _with_the_likeliest(least: float | Tensor, probabilities_RA: Tensor) -> Tensor:
    """Return the least probability [R, 1] that is kept, no higher than that of the likeliest id."""
    highest_R1 = probabilities_RA.amax(dim=-1, keepdim=True)
    return highest_R1.minimum(torch.as_tensor(least, dtype=highest_R1.dtype, device=highest_R1.device))


def _entropy(logs_RA: Tensor) -> Tensor:
    """Return the entropy [R, 1] of ids with these logarithms of their probabilities."""
    # What is forbidden has a probability of 0, and contributes 0.
    return -(logs_RA.exp() * logs_RA.clamp(min=torch.finfo(logs_RA.dtype).min)).sum(dim=-1, keepdim=True)


def _at_least(values_RA: Tensor, threshold_R1: Tensor, logits_RA: Tensor) -> Tensor:
    """Return the logits, less infinity where a value is below the row's threshold, which forbids the id."""
    # 1/1 − 1 is 0 and 1/0 − 1 infinity. On a CPU torch.where would take four times as long.
    kept_RA = torch.empty_like(values_RA)
    torch.ge(values_RA.detach(), threshold_R1.detach(), out=kept_RA)
    return logits_RA - kept_RA.reciprocal_().sub_(1)


def _threshold(ranks_RA: Tensor, probabilities_RA: Tensor, mass: float) -> Tensor:
    """Return the rank [R, 1] of the last of the ids of the highest ranks that together hold a probability."""
    size = ranks_RA.shape[-1]
    last_R1 = ranks_RA.new_empty(len(ranks_RA), 1)
    highest = probabilities_RA.amax(dim=-1).tolist()
    # A row doesn't depend on others, so more of each is looked at until its own ids hold the mass.
    left = list(range(len(ranks_RA)))
    for count in (*(count for count in LOOKED_AT if count < size), size):
        rows = [row for row in left if count == size or count * highest[row] >= mass]
        if not rows:
            continue
        every = len(rows) == len(ranks_RA)
        some_RA, of_some_RA = (ranks_RA, probabilities_RA) if every else (ranks_RA[rows], probabilities_RA[rows])
        found = (some_RA, some_RA) if ranks_RA is probabilities_RA else (some_RA, of_some_RA)
        last_of_some_R1, holds_R = _last_rank(*_highest(*found, count), mass)
        held = {row for row, holds in zip(rows, holds_R.tolist(), strict=True) if holds or count == size}
        if len(held) == len(ranks_RA):
            return last_of_some_R1
        last_R1[rows] = last_of_some_R1
        left = [row for row in left if row not in held]
    return last_R1


def _highest(ranks_RA: Tensor, probabilities_RA: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest ranks in descending order, and the probabilities of their ids, both [R, X]."""
    if count < ranks_RA.shape[-1]:
        ranks_RX, places_RX = ranks_RA.topk(count, dim=-1)
    elif ranks_RA is probabilities_RA and ranks_RA.device.type == "cpu" and _has_numpy():
        # Without places, numpy sorts many ids in a fraction of torch's time, in ascending order.
        ranks_RX = -ranks_RA.detach()
        ranks_RX.numpy().sort(axis=-1)
        ranks_RX.neg_()
        return ranks_RX, ranks_RX
    else:
        ranks_RX, places_RX = ranks_RA.sort(dim=-1, descending=True)
    return ranks_RX, ranks_RX if ranks_RA is probabilities_RA else probabilities_RA.gather(-1, places_RX)


@functools.cache
def _has_numpy() -> bool:
    """Return whether numpy is installed, without which tensors have no ``numpy()``."""
    return importlib.util.find_spec("numpy") is not None


def _last_rank(ranks_RX: Tensor, probabilities_RX: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Return the rank [R, 1] at which the ids so far hold the mass, the last where none does, and whether one does."""
    held_RX = probabilities_RX.cumsum(dim=-1)
    mass_R1 = held_RX.new_full((len(held_RX), 1), mass)
    last_R1 = torch.searchsorted(held_RX, mass_R1).clamp(max=ranks_RX.shape[-1] - 1)
    return ranks_RX.gather(-1, last_R1), held_RX[:, -1] >= mass
