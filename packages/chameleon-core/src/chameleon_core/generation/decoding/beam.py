"""Beam search: the likeliest continuations of several hypotheses run on, and the text of the best score is written.

Shapes: J running hypotheses, A ids that may come next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ...errors import ConfigError
from ..processors import FORBIDDEN, RowView
from .search import Continuation, Hypothesis, SearchView

EarlyStopping = bool | Literal["never"]

MAX_LENGTH_PENALTY = 50


class Beam:
    """Runs ``num_beams`` hypotheses, an integer ≥ 1, 4 by default; 1 decodes plainly.

    The score of a complete text is the sum of its ids' log-probabilities, divided by its length to the power of
    ``length_penalty``, −50…50: 1 by default; above 0 long texts gain. The search ends once ``num_beams`` texts are
    complete and no running one can beat them. ``early_stopping`` says how that is judged: False, the default, by the
    score that the best one would have if it ended now; True not at all; "never" by the best score that it may reach.

    Where ids are sampled, continuations are drawn without replacement, in proportion to their probability.
    """

    def __init__(self, num_beams: int = 4, length_penalty: float = 1.0, early_stopping: EarlyStopping = False) -> None:
        if type(num_beams) is not int or num_beams < 1:
            raise _wrong("num_beams", num_beams, "an integer ≥ 1")
        is_number = isinstance(length_penalty, int | float) and not isinstance(length_penalty, bool)
        if not is_number or not abs(length_penalty) <= MAX_LENGTH_PENALTY:
            expected = f"a number from {-MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}"
            raise _wrong("length_penalty", length_penalty, expected)
        if not isinstance(early_stopping, bool) and early_stopping != "never":
            raise _wrong("early_stopping", early_stopping, 'True, False or "never"')
        self.num_beams = num_beams
        self.length_penalty = float(length_penalty)
        self.early_stopping: EarlyStopping = early_stopping

    def start(self, row: RowView, /) -> BeamSearcher | None:
        """Return the searcher of a row."""
        return BeamSearcher(self, len(row.stop_ids)) if self.num_beams > 1 else None


def unsupported(row: RowView) -> str | None:
    """Return why beam search can't serve a row: it searches texts."""
    modality = row.options.modality
    if modality == "text":
        return None
    return (
        f"it searches for the likeliest text, and modality={modality!r} draws pictures, the likeliest of "
        "which are flat; use modality='text', or decoding='plain'"
    )


class BeamSearcher:
    """Knows the best complete hypotheses of a row. ``num_ends`` is how many ids end it."""

    def __init__(self, beam: Beam, num_ends: int) -> None:
        self.beam = beam
        # So many that enough run on where all ids that end a hypothesis are among them.
        self._count = max(2, 1 + num_ends) * beam.num_beams
        self._complete: list[Hypothesis] = []

    @property
    def width(self) -> int:
        """How many hypotheses run."""
        return self.beam.num_beams

    def extend(self, view: SearchView, /) -> list[Continuation]:
        """Return the best continuations, after those that are complete were kept."""
        candidates = self._candidates(view)
        endings = [view.ending(each) for each in candidates]
        length = len(view.running[0].ids) + 1
        # One that isn't among the best when it ends is given up.
        for each, reason in list(zip(candidates, endings, strict=True))[: self.width]:
            if reason is not None:
                ids = (*view.running[each.parent].ids, each.token_id)
                self._complete.append(Hypothesis(ids, self._final_score(each.score, length), reason))
        self._complete = _best(self._complete, self.width)
        running = [each for each, reason in zip(candidates, endings, strict=True) if reason is None]
        running = sorted(running, key=lambda each: -each.score)[: self.width]
        return running if running and self._may_improve(running[0].score, length, view.limit) else []

    def results(self, running: Sequence[Hypothesis], /) -> list[Hypothesis]:
        """Return the best hypotheses by the score of complete ones."""
        cut_off = [
            Hypothesis(each.ids, self._final_score(each.score, len(each.ids)), each.finish_reason) for each in running
        ]
        return _best([*self._complete, *cut_off], self.width)

    def _candidates(self, view: SearchView) -> list[Continuation]:
        """Return the likeliest continuations, or those that were drawn, best first."""
        carried_J1 = view.log_probs_JA.new_tensor([[each.score] for each in view.running])
        scores_JA = view.log_probs_JA + carried_J1
        # The first places of logits with Gumbel noise are a draw without replacement.
        ranked_JA = scores_JA if view.noise_JA is None else scores_JA + view.noise_JA
        places = ranked_JA.flatten().topk(min(self._count, ranked_JA.numel())).indices
        scores = scores_JA.flatten()[places].tolist()
        parents = (places // len(view.ids_A)).tolist()
        ids = view.ids_A[places % len(view.ids_A)].tolist()
        found = map(Continuation, parents, ids, scores)
        return [each for each in found if each.score > FORBIDDEN]

    def _may_improve(self, best: float, length: int, limit: int) -> bool:
        """Return whether a running hypothesis, the best of which has this score, may become one of the results."""
        if len(self._complete) < self.width:
            return True
        if self.beam.early_stopping is True:
            return False
        reached = limit if self.beam.early_stopping == "never" and self.beam.length_penalty > 0 else length
        return self._final_score(best, reached) > self._complete[-1].score

    def _final_score(self, score: float, length: int) -> float:
        return score / math.pow(length, self.beam.length_penalty)


def _best(hypotheses: Sequence[Hypothesis], count: int) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda each: -each.score)[:count]


def _wrong(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name} of the decoding strategy 'beam' must be {expected}; got {value!r:.80}.")
