"""Sampling: from logits to an id.

Shapes: R rows, A ids that may be chosen (of text, or the codes of a picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._moved import moved_names
from .noise import gumbel_noise

FORBIDDEN = float("-inf")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one kind of token is sampled."""

    temperature: float = 1.0
    """Divides the logits, > 0."""
    top_k: int | None = None
    """Keep this many of the likeliest choices, ≥ 1; None keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of the likeliest choices that holds this probability, in (0, 1]."""
    min_p: float = 0.0
    """Keep choices with at least this share of the likeliest one's probability, in [0, 1)."""

    def probabilities(self, logits_RA: Tensor) -> Tensor:
        """Return the probabilities after temperature and truncation, float32 [R, A]; truncated choices have 0."""
        # Relative to the largest, so that a temperature near 0 makes the others -inf instead of the largest inf.
        scaled_RA = (logits_RA.float() - logits_RA.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < scaled_RA.shape[-1]:
            threshold_R1 = scaled_RA.topk(self.top_k, dim=-1).values[:, -1:]
            scaled_RA = scaled_RA.masked_fill(scaled_RA < threshold_R1, FORBIDDEN)
        kept_RA = scaled_RA.softmax(dim=-1)
        if self.top_p < 1:
            kept_RA = kept_RA.masked_fill(~_nucleus(kept_RA, self.top_p), 0.0)
        if self.min_p > 0:
            kept_RA = kept_RA.masked_fill(kept_RA < self.min_p * kept_RA.amax(dim=-1, keepdim=True), 0.0)
        return kept_RA / kept_RA.sum(dim=-1, keepdim=True)


class RowGenerators:
    """A random generator for each row of a request, so that a row's samples don't depend on the rest of the batch."""

    def __init__(self, seed: int | None, rows: int) -> None:
        if seed is None:
            # From torch's own generator, so that torch.manual_seed makes a run repeatable.
            seed = int(torch.randint(2**62, ()))
        # An odd multiplier spreads neighbouring rows over all seeds (2^64 / golden ratio).
        self._generators = [
            torch.Generator().manual_seed((seed + row * 0x9E3779B97F4A7C15) % 2**63) for row in range(rows)
        ]

    def uniform(self, rows: Sequence[int]) -> Tensor:
        """Return a number in [0, 1) from each of these rows' generators, float64 [R]."""
        return torch.cat([torch.rand(1, dtype=torch.float64, generator=self._generators[row]) for row in rows])


def choose(logits_RA: Tensor, noise_RA: Tensor | None = None) -> Tensor:
    """Return the place of each row's likeliest choice, int64 [R]: the first where several are equally likely.

    With Gumbel noise, which the logits' float32 keeps, that is a sample of the softmax of the logits.
    """
    return (logits_RA if noise_RA is None else logits_RA + noise_RA).argmax(dim=-1)


def choose_sampled(logits_RA: Tensor, ids_A: Tensor, keys_R: Tensor) -> Tensor:
    """Return what ``choose`` returns with ``gumbel_noise(keys_R, ids_A)``, without noise for what no row may choose.

    After truncation that is nearly everything, and the noise is most of the work.
    """
    allowed_A = (logits_RA > FORBIDDEN).any(dim=0).nonzero()[:, 0]
    if 2 * len(allowed_A) > len(ids_A):
        return choose(logits_RA, gumbel_noise(keys_R, ids_A))
    noise_RA = gumbel_noise(keys_R, ids_A[allowed_A])
    return allowed_A[choose(logits_RA[:, allowed_A], noise_RA)]


def sample(logits_RA: Tensor, sampling: Sampling | None, generators: RowGenerators, rows: Sequence[int]) -> list[int]:
    """Return one choice for each row, the likeliest where ``sampling`` is None.

    ``rows`` are the indices of the rows in the request, which select their generators.
    """
    if sampling is None:
        return logits_RA.argmax(dim=-1).tolist()
    # Inverse transform sampling: one random number a row, whatever the number of choices.
    cumulative_RA = sampling.probabilities(logits_RA).double().cumsum(dim=-1)
    total_R1 = cumulative_RA[:, -1:]
    target_R1 = generators.uniform(rows).to(logits_RA.device)[:, None] * total_R1
    # A product that rounds up to the total would select a choice past the last one.
    target_R1 = torch.minimum(target_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    return torch.searchsorted(cumulative_RA, target_R1, right=True)[:, 0].tolist()


def penalize_repetition(logits_RA: Tensor, seen_RA: Tensor, penalty: float) -> Tensor:
    """Return logits with the ids that a row already has made less likely (CTRL, arXiv 1909.05858, section 4.1)."""
    penalized_RA = torch.where(logits_RA > 0, logits_RA / penalty, logits_RA * penalty)
    return torch.where(seen_RA, penalized_RA, logits_RA)


def _nucleus(probabilities_RA: Tensor, mass: float) -> Tensor:
    """Return a mask of the likeliest choices that together hold ``mass``; at least one in each row."""
    sorted_RA, order_RA = probabilities_RA.sort(dim=-1, descending=True)
    # A choice is kept while those before it hold less than the mass.
    before_RA = sorted_RA.cumsum(dim=-1) - sorted_RA
    return torch.zeros_like(probabilities_RA, dtype=torch.bool).scatter(-1, order_RA, before_RA < mass)


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "draw": "chameleon_core.generation.sampling:sample",
        },
    )
