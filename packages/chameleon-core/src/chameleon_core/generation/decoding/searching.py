"""The engine's side of searches: what is wrong with what a searcher returns.

Shapes: J running hypotheses, A ids that may come next, F continuations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from chameleon_backends.plugin_calls import described

from ...errors import BrokenPluginError
from ..processors import FORBIDDEN
from ..processors.links import called
from ..rows import FinishReason
from .search import Continuation, Hypothesis, Searcher, SearchView


class RowSearcher:
    """A row's searcher, whose strategy errors call ``owner``. Raises ``BrokenPluginError`` for what it does wrong."""

    def __init__(self, searcher: Searcher, owner: str) -> None:
        self.searcher = searcher
        self.owner = owner
        width = called(owner, "asked how many hypotheses run", lambda: searcher.width)
        if type(width) is not int or width < 1:
            raise BrokenPluginError(f"{owner} has a searcher of width {width!r:.80}; expected an integer ≥ 1.")
        self.width = width
        # By their hashes: a search of many steps sees far more complete hypotheses than it keeps.
        self._complete: dict[int, FinishReason] = {}

    def extend(self, view: SearchView) -> list[Continuation]:
        """Return the continuations that run on; none where the search has ended."""

        def ending(continuation: Continuation) -> FinishReason | None:
            reason = view.ending(continuation)
            if reason is not None:
                ids = (*view.running[continuation.parent].ids, continuation.token_id)
                self._complete[hash(ids)] = reason
            return reason

        found = called(
            self.owner, "extending hypotheses", self.searcher.extend, dataclasses.replace(view, ending=ending)
        )
        if not isinstance(found, Sequence) or len(found) > self.width:
            raise BrokenPluginError(
                f"{self.owner} returned {described(found)} from extend; expected a list of at most {self.width} "
                "continuations."
            )
        for each in found:
            if not _is_continuation(each, len(view.running)):
                raise BrokenPluginError(
                    f"{self.owner} returned {each!r:.80} from extend; expected a Continuation of one of the "
                    f"{len(view.running)} running hypotheses, with a finite score."
                )
        if not found:
            return []
        tokens_F = view.ids_A.new_tensor([each.token_id for each in found])
        places_F = torch.searchsorted(view.ids_A, tokens_F).clamp(max=len(view.ids_A) - 1)
        log_probs_F = view.log_probs_JA[[each.parent for each in found], places_F]
        may_come = ((view.ids_A[places_F] == tokens_F) & (log_probs_F > FORBIDDEN)).tolist()
        for each, allowed in zip(found, may_come, strict=True):
            if not allowed or view.ending(each) is not None:
                why = "ends it" if allowed else "may not come there"
                raise BrokenPluginError(f"{self.owner} continued a hypothesis by id {each.token_id}, which {why}.")
        return list(found)

    def results(self, running: Sequence[Hypothesis]) -> tuple[Hypothesis, ...]:
        """Return what was found, best first; ``running`` are the hypotheses that were cut off."""
        found = called(self.owner, "asked for its results", self.searcher.results, tuple(running))
        if not isinstance(found, Sequence) or not all(isinstance(each, Hypothesis) for each in found):
            raise BrokenPluginError(f"{self.owner} returned {described(found)} from results; expected hypotheses.")
        known = {hash(each.ids): each.finish_reason for each in running} | self._complete
        for each in found:
            if known.get(hash(each.ids)) != each.finish_reason or each.finish_reason is None:
                raise BrokenPluginError(
                    f"{self.owner} returned a hypothesis of {len(each.ids)} ids from results that isn't one of those "
                    f"that ended, or gives another reason than theirs: {each.finish_reason!r}."
                )
        return tuple(found)


def _is_continuation(found: object, num_running: int) -> bool:
    if not isinstance(found, Continuation):
        return False
    places = type(found.parent) is int and 0 <= found.parent < num_running and type(found.token_id) is int
    return places and isinstance(found.score, float) and math.isfinite(found.score)
