"""The log-probabilities of what may come after the hypotheses of a search, instead of a choice among it.

Shapes: M flattened positions of a pass, P points, E hidden width, A ids that may come next, U ids that text never has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ChameleonCoreError
from .allowed import AllowedIds
from .candidates import Candidates, CandidateTable
from .finite import find_not_finite
from .noise import gumbel_noise, noise_key
from .processors import FORBIDDEN, ProcessorChain

if TYPE_CHECKING:
    from .points import Point


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What may come after a hypothesis."""

    ids_A: Tensor
    """int64, the ids."""
    log_probs_A: Tensor
    """float32, their log-probabilities, processed."""
    noise_A: Tensor | None
    """float32, their noise; None where ids aren't sampled."""


def score_points(
    table: CandidateTable, candidates: Candidates, points: Sequence[Point], hidden_ME: Tensor
) -> list[Scores | ChameleonCoreError]:
    """Return the scores at points of text that choose among the same ids, or what went wrong there."""
    hidden_PE = hidden_ME[[place for point in points for place in point.places]]
    logits_PA = candidates.logits(hidden_PE)
    errors = find_not_finite(logits_PA, [point.row for point in points], table.model)
    # A probability of text counts the special ids, which can't be written, and not the codes of pictures.
    logits_PU = table.never_written(candidates).logits(hidden_PE)
    log_probs_PA = logits_PA - torch.cat((logits_PA, logits_PU), dim=-1).logsumexp(dim=-1, keepdim=True)
    forbid_beginnings(log_probs_PA, candidates, points)
    groups: dict[ProcessorChain, list[int]] = defaultdict(list)
    for number, point in enumerate(points):
        if number not in errors:
            groups[point.chain].append(number)
    scored: dict[int, Scores | ChameleonCoreError] = {**errors}
    for chain, numbers in groups.items():
        group = [points[number] for number in numbers]
        scored.update(zip(numbers, _scored_or_failed(chain, log_probs_PA[numbers], candidates, group), strict=True))
    return [scored[number] for number in range(len(points))]


def forbid_beginnings(logits_PA: Tensor, allowed: AllowedIds, points: Sequence[Point]) -> None:
    """Forbid, in place, what begins a segment at points where it may not."""
    closed = [(number, each) for number, point in enumerate(points) for each in point.forbidden_beginnings]
    if closed:
        numbers = [number for number, _ in closed]
        logits_PA[numbers, [allowed.place[begin_id] for _, begin_id in closed]] = FORBIDDEN


def _scored_or_failed(
    chain: ProcessorChain, log_probs_PA: Tensor, candidates: Candidates, points: Sequence[Point]
) -> Sequence[Scores | ChameleonCoreError]:
    """Return the scores at points with the same processors, or the errors of those whose processors fail."""
    try:
        processed_PA = chain.process(log_probs_PA, candidates.ids_A, [point.state for point in points])
    except ChameleonCoreError as error:
        if len(points) == 1:
            return [error]
        alone = [
            _scored_or_failed(chain, log_probs_PA[place : place + 1], candidates, [point])
            for place, point in enumerate(points)
        ]
        return [found for (found,) in alone]
    return [
        Scores(candidates.ids_A, log_probs_A, _noise(point, candidates.ids_A))
        for point, log_probs_A in zip(points, processed_PA, strict=True)
    ]


def _noise(point: Point, ids_A: Tensor) -> Tensor | None:
    """Return the noise of a hypothesis, which isn't that of the others of its row; the first has that of the row."""
    if point.seed is None:
        return None
    row = point.row.index + ((point.rank or 0) << 64)
    key = noise_key(point.seed, row, point.position)
    return gumbel_noise(torch.tensor([key], device=ids_A.device), ids_A)[0]
