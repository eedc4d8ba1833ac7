"""The choice of the next ids: logits of what may come next, guided, processed, and the likeliest with the row's noise.

Shapes: M flattened positions of a pass, L lanes, P points of choice, E hidden width, A ids that may come next, X
either of the last two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ChameleonCoreError, GenerationError
from .allowed import AllowedIds
from .candidates import Candidates, CandidateTable
from .finite import find_not_finite, is_finite
from .noise import noise_key
from .points import Point
from .processors import ProcessorChain
from .sampling import choose, choose_sampled
from .scoring import Scores, forbid_beginnings, score_points

if TYPE_CHECKING:
    from .decoder import Decoder


Found = int | Scores | ChameleonCoreError
"""What is found at a point: the next id, the scores of all that may come next, or what went wrong."""


class Chooser:
    """Chooses ids at all points of a pass; rows that may choose among the same ids share the work."""

    def __init__(self, model: Decoder[Any]) -> None:
        self.model = model
        self.table = CandidateTable(model)

    def choose(self, points: Sequence[Point], hidden_ME: Tensor) -> list[Found]:
        """Return the next id of each point, the scores of all ids after a hypothesis, or what went wrong there."""
        chosen: dict[int, Found] = {}
        kinds: dict[tuple[Candidates, bool], list[int]] = defaultdict(list)
        for number, point in enumerate(points):
            kinds[self.table.of(point.row), point.rank is None].append(number)
        for (candidates, chooses), numbers in kinds.items():
            alike = [points[number] for number in numbers]
            found: Sequence[Found]
            if chooses:
                found = self._choose_among(candidates, alike, hidden_ME)
            else:
                found = score_points(self.table, candidates, alike, hidden_ME)
            chosen.update(zip(numbers, found, strict=True))
        return [chosen[number] for number in range(len(points))]

    def _choose_among(
        self, candidates: Candidates, points: Sequence[Point], hidden_ME: Tensor
    ) -> list[int | ChameleonCoreError]:
        logits_PA, errors = self._guided_logits(candidates, points, hidden_ME)
        forbid_beginnings(logits_PA, candidates, points)
        return choose_among(candidates, points, logits_PA, errors)

    def _guided_logits(
        self, candidates: Candidates, points: Sequence[Point], hidden_ME: Tensor
    ) -> tuple[Tensor, dict[int, GenerationError]]:
        """Return the logits of each point, the weighted sum over its lanes, and the points where they aren't finite."""
        places = [place for point in points for place in point.places]
        owners = [number for number, point in enumerate(points) for _ in point.places]
        hidden_LE = hidden_ME if places == list(range(len(hidden_ME))) else hidden_ME[places]
        is_guided = len(owners) != len(points) or any(point.weights != (1.0,) for point in points)
        weights = [weight for point in points for weight in point.weights]
        if is_guided and hidden_LE.dtype == torch.float32 and candidates.is_product:
            # The logits are a product with the hidden states, so that the sum of these is as good, for half the work.
            logits_PA = candidates.logits(_weighted_sums(hidden_LE, weights, owners))
            if is_finite(logits_PA):
                return logits_PA, {}
        logits_LA = candidates.logits(hidden_LE)
        found = find_not_finite(logits_LA, [points[owner].row for owner in owners], self.model)
        if not is_guided:
            return logits_LA, found
        logits_PA = _weighted_sums(logits_LA, weights, owners)
        rows = [point.row for point in points]
        overflowed = find_not_finite(
            logits_PA, rows, self.model, option="guidance_scale, guidance_text or guidance_image"
        )
        return logits_PA, overflowed | {owners[place]: error for place, error in found.items()}


def choose_among(
    allowed: AllowedIds, points: Sequence[Point], logits_PA: Tensor, errors: Mapping[int, ChameleonCoreError]
) -> list[int | ChameleonCoreError]:
    """Return the next id of each point from the guided logits, or what goes wrong; ``errors`` are what did before."""
    chosen: dict[int, int | ChameleonCoreError] = {**errors}
    groups: dict[tuple[ProcessorChain, bool], list[int]] = defaultdict(list)
    for number, point in enumerate(points):
        if number not in errors:
            groups[point.chain, point.seed is None].append(number)
    for (chain, _), numbers in groups.items():
        group = [points[number] for number in numbers]
        logits_RA = logits_PA if len(numbers) == len(points) else logits_PA[numbers]
        chosen.update(zip(numbers, _choose_or_fail(chain, logits_RA, allowed, group), strict=True))
    return [chosen[number] for number in range(len(points))]


def _weighted_sums(values_LX: Tensor, weights: Sequence[float], owners: Sequence[int]) -> Tensor:
    """Return the weighted sum of each point's lanes, [P, X]; ``owners`` are the lanes' points, in ascending order."""
    weights_L = values_LX.new_tensor(weights)
    if not owners[-1]:  # the lanes of one row, as nearly always: one call in the place of four
        return torch.mm(weights_L[None], values_LX)
    weighted_LX = values_LX * weights_L[:, None]
    sums_PX = values_LX.new_zeros(owners[-1] + 1, values_LX.shape[1])
    return sums_PX.index_add_(0, torch.tensor(owners, device=values_LX.device), weighted_LX)


def _choose_or_fail(
    chain: ProcessorChain, logits_PA: Tensor, allowed: AllowedIds, points: Sequence[Point]
) -> Sequence[int | ChameleonCoreError]:
    """Return the ids of points with the same processors, or the errors of those whose processors fail."""
    try:
        return _choose_alike(chain, logits_PA, allowed, points)
    except ChameleonCoreError as error:
        if len(points) == 1:
            return [error]
        # Only the rows at fault end.
        alone = [
            _choose_or_fail(chain, logits_PA[place : place + 1], allowed, [point]) for place, point in enumerate(points)
        ]
        return [found for (found,) in alone]


def _choose_alike(chain: ProcessorChain, logits_PA: Tensor, allowed: AllowedIds, points: Sequence[Point]) -> list[int]:
    """Return the ids of points with the same processors, all of them sampled or none."""
    logits_PA = chain.process(logits_PA, allowed.ids_A, [point.state for point in points])
    if points[0].seed is None:
        places_P = choose(logits_PA)
    else:
        keys = [noise_key(point.seed or 0, point.row.index, point.position) for point in points]
        places_P = choose_sampled(logits_PA, allowed.ids_A, torch.tensor(keys, device=logits_PA.device))
    ids: list[int] = allowed.ids_A[places_P].tolist()
    return ids
