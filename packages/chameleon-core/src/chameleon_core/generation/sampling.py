"""From logits to an id.

Shapes: R rows, V choices (ids of text, or the codes of a picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FORBIDDEN = float("-inf")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one kind of token is drawn; see ``GenerationOptions`` for the fields."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def probabilities(self, logits_RV: Tensor) -> Tensor:
        """Probabilities after temperature and cuts, float32 [R, V]; choices that were cut have 0."""
        # Below the largest, so that a temperature close to 0 makes the others -inf and not the largest inf.
        scaled_RV = (logits_RV.float() - logits_RV.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < scaled_RV.shape[-1]:
            threshold_R1 = scaled_RV.topk(self.top_k, dim=-1).values[:, -1:]
            scaled_RV = scaled_RV.masked_fill(scaled_RV < threshold_R1, FORBIDDEN)
        kept_RV = scaled_RV.softmax(dim=-1)
        if self.top_p < 1:
            kept_RV = kept_RV.masked_fill(~_nucleus(kept_RV, self.top_p), 0.0)
        if self.min_p > 0:
            kept_RV = kept_RV.masked_fill(kept_RV < self.min_p * kept_RV.amax(dim=-1, keepdim=True), 0.0)
        return kept_RV / kept_RV.sum(dim=-1, keepdim=True)


class RowGenerators:
    """A random generator for each row of a request, so that a row's draws don't depend on its company."""

    def __init__(self, seed: int | None, rows: int) -> None:
        if seed is None:
            # From torch's own generator, so that torch.manual_seed makes a run repeatable.
            seed = int(torch.randint(2**62, ()))
        # An odd multiplier spreads neighbouring rows over all seeds (2^64 / golden ratio).
        self._generators = [
            torch.Generator().manual_seed((seed + row * 0x9E3779B97F4A7C15) % 2**63) for row in range(rows)
        ]

    def uniform(self, rows: Sequence[int]) -> Tensor:
        """One number of [0, 1) from each of these rows' generators, float64 [R]."""
        return torch.cat([torch.rand(1, dtype=torch.float64, generator=self._generators[row]) for row in rows])


def draw(logits_RV: Tensor, sampling: Sampling | None, generators: RowGenerators, rows: Sequence[int]) -> list[int]:
    """One choice for each row: the likeliest where ``sampling`` is None. ``rows`` are their indices in the request."""
    if sampling is None:
        return logits_RV.argmax(dim=-1).tolist()
    # Inverse transform sampling: one number a row, whatever the vocabulary's size.
    cumulative_RV = sampling.probabilities(logits_RV).double().cumsum(dim=-1)
    total_R1 = cumulative_RV[:, -1:]
    target_R1 = generators.uniform(rows).to(logits_RV.device)[:, None] * total_R1
    # A product that rounds up to the total would fall behind the last choice.
    target_R1 = torch.minimum(target_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].tolist()


def penalize_repetition(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """Make ids that a row has already less likely (CTRL, arXiv 1909.05858, section 4.1)."""
    penalized_RV = torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty)
    return torch.where(seen_RV, penalized_RV, logits_RV)


def _nucleus(probabilities_RV: Tensor, mass: float) -> Tensor:
    """True for the likeliest choices that together hold ``mass``; always at least one."""
    sorted_RV, order_RV = probabilities_RV.sort(dim=-1, descending=True)
    # A choice stays while those before it don't hold the mass yet.
    before_RV = sorted_RV.cumsum(dim=-1) - sorted_RV
    return torch.zeros_like(probabilities_RV, dtype=torch.bool).scatter(-1, order_RV, before_RV < mass)
