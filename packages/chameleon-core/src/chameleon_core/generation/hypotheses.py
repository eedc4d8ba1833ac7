"""A row that searches: several hypotheses run beside each other, each in a lane of its own.

The prompt is computed once, in one lane. A hypothesis that is continued in several ways is copied into the lanes of
those that aren't continued, from where the two differ.

Shapes: J running hypotheses, A ids that may come next.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import ChameleonCoreError, GenerationError
from .choosing import Found
from .decoder import LaneCacheLike, LaneT
from .decoding import Continuation, Hypothesis, RowSearcher, SearchView
from .feeds import Feed, Lane
from .points import Point
from .prefix_cache import PrefixCache
from .processors.links import NothingAllowedError
from .requests import NewIds
from .rows import FinishReason, Row
from .running import SPARE_POSITIONS, RunningRow
from .scoring import Scores


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A running hypothesis."""

    row: Row
    """The row as it would be."""
    state: Any
    """The state of the row's logits processors after its ids."""
    score: float = 0.0
    """The searcher's score of it."""


@dataclass(eq=False)
class SearchingRow(RunningRow[LaneT]):
    """A row with what searches for it; it writes nothing before the search has ended."""

    searcher: RowSearcher = field(kw_only=True)
    """What decides which hypotheses run on."""
    running: list[Running] = field(default_factory=list)
    """The running hypotheses, each in the lane of the same place; while the first lane is fed what all begin with, the
    others have none."""

    def __post_init__(self) -> None:
        self.running = [Running(self.row, self.states["text"])]

    @property
    def has_begun(self) -> bool:
        """Whether an id follows the prompt in the running hypotheses."""
        return bool(self.running[0].row.new_ids)

    @property
    def num_lanes(self) -> int:
        """How many lanes it has at most."""
        return self.searcher.width

    @property
    def first_ids(self) -> list[int]:
        """What all hypotheses begin with."""
        first, *others = [each.row.ids for each in self.running]
        return first[: min((_count_equal(first, ids) for ids in others), default=len(first))]

    @property
    def expected_length(self) -> int:
        """How many positions each lane will take, as far as that is known."""
        row = self.running[0].row
        return len(row.prompt) + len(row.new_ids) + min(row.room, SPARE_POSITIONS)

    def expected_room(self, cache: LaneCacheLike[LaneT]) -> int:
        """Return how many positions there must be before it starts."""
        return self.num_lanes * cache.capacity_for(self.expected_length)

    def accept_written(self, ids: Sequence[int]) -> None:
        """Raise ``GenerationError`` where the row has written ids already: a search begins anew."""
        if ids:
            raise GenerationError(
                f"row {self.row.index} has written {len(ids)} ids already, and {self.searcher.owner} searches whole "
                "texts. Put them at the end of the prompt, or use another decoding."
            )

    def next_feed(self, budget: int | None) -> Feed[LaneT]:
        """Return what the row is fed next, of prompts no more than ``budget`` ids."""
        if len(self.lanes) == len(self.running):
            feed = super().next_feed(budget)
            return replace(feed, copies=self.num_lanes - len(self.lanes)) if feed.offsets else feed
        (lane,) = self.lanes
        ids = lane.pending[: None if budget is None else max(budget, 0)]
        return Feed([(lane, ids)] if ids else [], copies=len(self.running) - 1)

    def points(self, feed: Feed[LaneT], start: int) -> list[Point]:
        """Return a point of each hypothesis; ``start`` is the index of the feed's first hidden state in the pass."""
        if not feed.offsets:
            return []
        ends = itertools.accumulate((len(ids) for _, ids in feed.lanes), initial=start - 1)
        chain = self.chains["text"]
        return [
            Point(each.row, (end,), (1.0,), len(each.row.ids), chain, each.state, self.seed, rank)
            for rank, (each, end) in enumerate(zip(self.running, list(ends)[1:], strict=True))
        ]

    def take(
        self, feed: Feed[LaneT], found: Sequence[Found], cache: LaneCacheLike[LaneT], prefixes: PrefixCache
    ) -> None:
        """Let the searcher decide which hypotheses run on, or end with what it has found."""
        if not feed.offsets:
            super().take(feed, found, cache, prefixes)
            self._split(cache)
            return
        self._keep_prefix(prefixes)
        try:
            scores = self._drop_dead_ends(found, cache)
            kept = self.searcher.extend(self._view(scores))
            if kept:
                self._continue(kept, cache)
            else:
                self._end(self.searcher.results(()))
        except ChameleonCoreError as error:
            self._fail(error)

    def new_event(self) -> NewIds | None:
        """Return the best text once the search has ended, or as far as it came where something else ends the row."""
        reason = self.row.finish_reason
        if reason in ("cancelled", "timeout") and not self.handle.hypotheses:
            running = [replace(each, finish_reason=reason) for each in self._hypotheses() if each.ids]
            try:
                self._end(self.searcher.results(running) if running else (), reason)
            except ChameleonCoreError as error:
                self._fail(error)
        return super().new_event()

    def _hypotheses(self) -> list[Hypothesis]:
        return [Hypothesis(tuple(each.row.new_ids), each.score) for each in self.running]

    def _end(self, results: Sequence[Hypothesis], reason: FinishReason | None = None) -> None:
        """Write the best of the results."""
        if not results and reason is None:
            raise GenerationError(f"row {self.row.index}: {self.searcher.owner} ended the search without a text.")
        self.handle.hypotheses = tuple(results)
        if results:
            self.row.new_ids = list(results[0].ids)
        self.row.finish_reason = reason or results[0].finish_reason

    def _drop_dead_ends(self, found: Sequence[Found], cache: LaneCacheLike[LaneT]) -> list[Scores]:
        """Drop the hypotheses after which no id is allowed, and return the scores after the others.

        Raises what went wrong, also where none is left.
        """
        for each in found:
            if isinstance(each, ChameleonCoreError) and not isinstance(each, NothingAllowedError):
                raise each
        alive = [isinstance(each, Scores) for each in found]
        if not any(alive):
            assert isinstance(found[0], NothingAllowedError)
            raise found[0]
        for lane in itertools.compress(self.lanes, [not each for each in alive]):
            cache.free(lane.cached)
        self.running = list(itertools.compress(self.running, alive))
        self.lanes = list(itertools.compress(self.lanes, alive))
        return [each for each in found if isinstance(each, Scores)]

    def _view(self, scores: Sequence[Scores]) -> SearchView:
        noise = [each.noise_A for each in scores if each.noise_A is not None]
        return SearchView(
            running=tuple(self._hypotheses()),
            ids_A=scores[0].ids_A,
            log_probs_JA=torch.stack([each.log_probs_A for each in scores]),
            noise_JA=torch.stack(noise) if noise else None,
            limit=self.row.limit,
            ending=lambda continuation: self._continued(continuation).finish_reason,
        )

    def _continued(self, continuation: Continuation) -> Row:
        """Return the row after a continuation."""
        row = copy.copy(self.running[continuation.parent].row)
        row.new_ids = [*row.new_ids]
        row.accept(continuation.token_id)
        if row.finish_reason != "stop" and self.has_stop_string(row):
            row.finish_reason = "stop"
        return row

    def _continue(self, kept: Sequence[Continuation], cache: LaneCacheLike[LaneT]) -> None:
        """Give each continuation the lane of its hypothesis, or a copy where another has that."""
        running = [
            Running(
                self._continued(each),
                self.chains["text"].advance(self.running[each.parent].state, each.token_id),
                each.score,
            )
            for each in kept
        ]
        parents = {each.parent for each in kept}
        spare = [place for place in range(len(self.running)) if place not in parents]
        lanes = []
        for each in kept:
            if each.parent in parents:
                parents.remove(each.parent)
                cached = self.lanes[each.parent].cached
            elif spare:
                cached = self._copied(each.parent, spare.pop(), cache)
            else:
                cached = cache.fork(self.lanes[each.parent].cached)
            lanes.append(Lane(cached, [each.token_id]))
        for place in spare:
            cache.free(self.lanes[place].cached)
        self.running, self.lanes = running, lanes

    def _copied(self, source: int, target: int, cache: LaneCacheLike[LaneT]) -> LaneT:
        """Copy a hypothesis into the lane of another, from where they differ, and return it."""
        lane, copied = self.lanes[source].cached, self.lanes[target].cached
        same = _count_equal(self.running[source].row.ids, self.running[target].row.ids)
        cache.truncate(copied, same)
        cache.copy_in(copied, cache.copy_out(lane, same, lane.length))
        return copied

    def _split(self, cache: LaneCacheLike[LaneT]) -> None:
        """Give each hypothesis a lane once the first has been fed what they all begin with."""
        if len(self.lanes) == len(self.running) or self.lanes[0].pending:
            return
        (first,) = self.lanes
        lanes = [first, *(Lane(cache.fork(first.cached), []) for _ in self.running[1:])]
        for lane, each in zip(lanes, self.running, strict=True):
            lane.pending = each.row.ids[lane.cached.length :]
        self.lanes = lanes


def _count_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
