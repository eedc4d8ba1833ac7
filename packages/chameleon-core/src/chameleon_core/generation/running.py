"""A row while the engine runs it: its lanes, what it is fed next, and what it takes of what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic

from ..errors import ChameleonCoreError
from .choosing import Found
from .decoder import LaneCacheLike, LaneT
from .decoding import RowGuesser
from .feeds import Feed, Lane
from .points import Point
from .prefix_cache import PrefixCache, PrefixKey
from .processors import Kind
from .requests import NewIds, RequestHandle
from .row_machine import RowMachine
from .scoring import Scores
from .segment_kinds import PICTURE

# How many positions a new lane has room for beyond its prompt; it grows when that is not enough.
SPARE_POSITIONS = 128


@dataclass(slots=True, eq=False)
class RunningRow(RowMachine, Generic[LaneT]):
    """A row with what it needs to run."""

    handle: RequestHandle
    """What the caller has of it."""
    guessers: dict[Kind, RowGuesser]
    """What guesses its next ids, for each kind for which something is guessed."""
    lanes: list[Lane[LaneT]] = field(default_factory=list)
    """Its lanes, the whole context first; none while it waits."""
    computing: PrefixKey | None = None
    """What the prefix cache calls the beginning of the prompt that the row computes; None once it has."""
    reported: int = 0
    """How many of its new ids the engine has returned."""

    def is_overdue(self, now: float) -> bool:
        """Return whether its time is over; ``max_time`` lets it write one id."""
        handle = self.handle
        if handle.deadline is None or now < handle.deadline:
            return False
        return handle.request.timeout is not None or self.has_begun

    @property
    def has_begun(self) -> bool:
        """Whether an id follows the prompt."""
        return bool(self.row.new_ids)

    @property
    def order(self) -> tuple[int, int]:
        """What rows are sorted by: those that run first have the least."""
        return -self.handle.request.priority, self.handle.number

    @property
    def num_lanes(self) -> int:
        """How many lanes it has at most."""
        options = self.options
        is_guided = PICTURE in self.row.kinds and (options.guidance_text, options.guidance_image) != (1, 1)
        return 1 + 2 * is_guided + (options.guidance_scale != 1)

    @property
    def is_guided(self) -> bool:
        """Whether anything that it writes has branches of the guidance."""
        options = self.options
        return not options.guidance_scale == options.guidance_text == options.guidance_image == 1

    @property
    def first_ids(self) -> list[int]:
        """The ids that its first lane is fed before something is chosen."""
        return self.row.ids

    def expected_room(self, cache: LaneCacheLike[LaneT]) -> int:
        """Return how many positions there must be before it starts."""
        return cache.capacity_for(self.expected_length)

    @property
    def expected_length(self) -> int:
        """How many positions it will take, as far as that is known."""
        row = self.row
        ahead = min(row.room, SPARE_POSITIONS)
        if row.modality == row.kind != "text":
            ahead = self._segment_ahead
        return len(row.prompt) + len(row.new_ids) + ahead

    @property
    def _segment_ahead(self) -> int:
        """How many positions the only segment will take, or the open one, as far as that is known."""
        segment = self.row.segment
        if segment is None or segment.ids_left is None:
            return min(self.row.most_ids, SPARE_POSITIONS)
        left = segment.ids_left
        return left if left == segment.least_ids_left else min(left, SPARE_POSITIONS)

    def start(self, cache: LaneCacheLike[LaneT], prefixes: PrefixCache) -> None:
        """Get lanes, and what is known of the beginning of the prompt."""
        ids = self.first_ids
        lane = cache.add(self.expected_length)
        known = prefixes.restore(lane, ids)
        self.computing = prefixes.begin(self.row.prompt)
        self.lanes = [Lane(lane, ids[known:])]
        self._branch(cache)

    def stop(self, cache: LaneCacheLike[LaneT], prefixes: PrefixCache) -> None:
        """Give the lanes back."""
        self._end_prefix(prefixes)
        for lane in self.lanes:
            cache.free(lane.cached)
        self.lanes = []

    def next_feed(self, budget: int | None) -> Feed[LaneT]:
        """Return what the row is fed next, of prompts no more than ``budget`` ids.

        The last ids of all lanes are fed in the same step, so that their logits come together.
        """
        unread = sum(len(lane.pending) - 1 for lane in self.lanes)
        if budget is None or unread <= max(budget, 0):
            try:
                guesses, offsets = self._guesses()
            except ChameleonCoreError as error:
                self._fail(error)
                return Feed([])
            return Feed([(lane, [*lane.pending, *guesses]) for lane in self.lanes], offsets, guesses)
        lanes = []
        for lane in self.lanes:
            ids = lane.pending[:-1][:budget]
            budget -= len(ids)
            if ids:
                lanes.append((lane, ids))
        return Feed(lanes)

    def points(self, feed: Feed[LaneT], start: int) -> list[Point]:
        """Return the feed's points of choice; ``start`` is the index of its first hidden state in the pass."""
        last, lasts = start - 1 - len(feed.guesses), []
        for _, ids in feed.lanes:
            last += len(ids)
            lasts.append(last)
        weights = tuple(lane.weight for lane, _ in feed.lanes)
        position = len(self.row.prompt) + len(self.row.new_ids)
        chain, state, points = self.chains[self.kind], self.states[self.kind], []
        for number, offset in enumerate(feed.offsets):
            if number:
                for token_id in feed.guesses[feed.offsets[number - 1] : offset]:
                    state = chain.advance(state, token_id)
            places = tuple(last + offset for last in lasts)
            points.append(Point(self.row, places, weights, position + offset, chain, state, self.seed))
        return points

    def take(
        self,
        feed: Feed[LaneT],
        found: Sequence[Found],
        cache: LaneCacheLike[LaneT],
        prefixes: PrefixCache,
    ) -> None:
        """Take the chosen ids as far as the guesses before them were right, and forget what was wrong."""
        if not feed.offsets:
            for lane, ids in feed.lanes:
                del lane.pending[: len(ids)]
            return
        self._keep_prefix(prefixes)
        guesser = self.guessers.get(self.kind)
        chosen = [each for each in found if not isinstance(each, Scores)]
        new: list[int] = []
        kept = accepted = 0
        for number, token_id in enumerate(chosen):
            if isinstance(token_id, ChameleonCoreError):
                if not number:
                    self._fail(token_id)
                    return
                break
            try:
                new = self.accept(token_id)
            except ChameleonCoreError as error:
                self._fail(error)
                return
            kept, accepted = feed.offsets[number], number + 1
            is_last = accepted == len(chosen)
            if self.row.finish_reason or is_last or tuple(new) != feed.guesses[kept : feed.offsets[accepted]]:
                break
        for lane, _ in feed.lanes:
            cache.truncate(lane.cached, lane.cached.length - len(feed.guesses) + kept)
            lane.pending = list(new)
        self._branch(cache)
        if guesser is not None and self.row.finish_reason is None:
            try:
                guesser.observe(chosen, accepted)
            except ChameleonCoreError as error:
                self._fail(error)

    def new_event(self) -> NewIds | None:
        """Return what is new since the last event; None where nothing is."""
        new = self.row.new_ids[self.reported :]
        if not new and self.row.finish_reason is None:
            return None
        self.reported += len(new)
        self.handle.new_ids += new
        self.handle.finish_reason = self.row.finish_reason
        return NewIds(self.handle, tuple(new), self.row.finish_reason)

    def accept_written(self, ids: Sequence[int]) -> None:
        """Accept what the row wrote in an earlier run. Raises ``GenerationError`` for what it can't have written."""
        RowMachine.accept_written(self, ids)  # super() has the class without slots
        self.reported = len(ids)

    def _fail(self, error: ChameleonCoreError) -> None:
        self.handle.error, self.row.finish_reason = error, "error"

    def _keep_prefix(self, prefixes: PrefixCache) -> None:
        """Keep the prompt for other rows, once the first lane has been fed it."""
        if self.computing is not None:
            prefixes.store(self.lanes[0].cached, self.row.prompt)
            self._end_prefix(prefixes)

    def _end_prefix(self, prefixes: PrefixCache) -> None:
        if self.computing is not None:
            prefixes.finish(self.computing)
            self.computing = None

    def _guesses(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids to feed on trial, and the offsets at which ids are chosen."""
        guesser = self.guessers.get(self.kind)
        return ((), (0,)) if guesser is None else guesser.guess(self.row)

    def _branch(self, cache: LaneCacheLike[LaneT]) -> None:
        """Add lanes for the guidance of text or where a picture has begun, and drop them once it is complete."""
        if not self.is_guided:
            return
        main, *branches = self.lanes
        guides_text = self.options.guidance_scale != 1
        if not (self.row.lacks_codes or guides_text) or self.row.finish_reason is not None:
            for lane in branches:
                cache.free(lane.cached)
            self.lanes = [main]
            main.weight = 1.0
        elif not branches:
            weights = self.branches()
            main.weight = 1 - sum(weights.values())
            for context, weight in weights.items():
                ahead = min(self.row.room, SPARE_POSITIONS) if guides_text else self._segment_ahead
                cached = cache.add(len(context) + ahead)
                self.lanes.append(Lane(cached, list(context), weight, is_branch=True))
