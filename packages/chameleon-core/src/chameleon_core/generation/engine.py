"""The engine: requests come and go, and each step feeds every lane its next ids and chooses what follows.

Each row has a lane of the cache for its whole context, and while it writes a guided picture one more for each branch
of the guidance. A pass feeds lanes what they have not seen: a piece of a prompt, the last id, or the last id and
guesses of those after it. An id is a function of the ids before it and of the noise at its position, so neither the
rest of the batch nor the guesses, nor a row that had to wait in between, changes what a row writes.

Shapes: M flattened ids of all lanes, E hidden width.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from ..errors import EngineFullError, GenerationError
from .admission import check_room, running_row
from .choosing import Chooser
from .decoder import Decoder, LaneT, TextDecoder
from .feeds import Feed
from .points import Point
from .prefix_cache import PrefixCache
from .requests import NewIds, Request, RequestHandle
from .running import RunningRow
from .waiting import WaitingRows

PREFIX_BYTES = 2**26
"""The memory for beginnings of prompts where nobody says how many positions are kept."""


class Engine(Generic[LaneT]):
    """Runs requests on one model, as many at a time as fit.

    ``max_rows`` is the largest number of requests that run at the same time, ``max_positions`` the room for keys and
    values of all lanes together, in positions; None for no limit, where lanes of small models take more than they need
    to save time. Where the room isn't enough, the request of the lowest priority waits and is computed again later; its
    ids are the same. ``max_waiting`` is the largest number of requests that wait. ``prompt_chunk`` is how many ids of
    prompts a step feeds at most, so that a long prompt doesn't hold up the other rows; None feeds prompts whole.
    ``prefix_positions`` is the room for beginnings of prompts that requests share, which are computed once; 0 keeps
    none, None as many as ``PREFIX_BYTES`` hold. ``cache_implementation`` names what stores keys and values: "dynamic",
    "int8", which takes half the memory of bfloat16, "static", whose steps can be compiled, or a plugin's; "dynamic" is
    "static" where the model's steps are compiled.

    Any thread may ``submit`` and ``cancel``; steps run one at a time. An engine keeps copies of rows of the
    output layer, and which layers to run, so make a new one after the model has changed.
    """

    def __init__(
        self,
        model: Decoder[LaneT],
        *,
        tokenizer: TextDecoder | None = None,
        max_rows: int | None = None,
        max_positions: int | None = None,
        max_waiting: int | None = None,
        prompt_chunk: int | None = None,
        prefix_positions: int | None = 0,
        cache_implementation: str = "dynamic",
    ) -> None:
        for name, value in (
            ("max_rows", max_rows),
            ("max_positions", max_positions),
            ("max_waiting", max_waiting),
            ("prompt_chunk", prompt_chunk),
        ):
            if value is not None and value < 1:
                raise GenerationError(f"{name} must be at least 1, or None for no limit; got {value}.")
        if cache_implementation == "dynamic" and getattr(model, "compiles_steps", False):
            cache_implementation = "static"  # only its steps have one shape
        self.model = model
        self.tokenizer = tokenizer
        self.cache_implementation = cache_implementation
        self.max_rows = max_rows
        self.max_positions = max_positions
        self.max_waiting = max_waiting
        self.prompt_chunk = prompt_chunk
        self.cache = model.new_lane_cache(cache_implementation)
        if max_positions is None and hasattr(self.cache, "widen"):
            self.cache.widen()
        if prefix_positions is None:
            prefix_positions = PREFIX_BYTES // _bytes_per_position(model)
        self.prefixes = PrefixCache(self.cache, prefix_positions)
        self._chooser = Chooser(model)
        self._waiting: WaitingRows[LaneT] = WaitingRows()
        self._running: list[RunningRow[LaneT]] = []
        self._ended: list[RunningRow[LaneT]] = []
        self._step_lock = threading.Lock()

    def submit(self, request: Request) -> RequestHandle:
        """Add a request, which starts in a later step when there is room, and return its handle.

        Raises ``GenerationError`` or ``ContextLengthError`` where it can't be met, and ``EngineFullError`` where
        ``max_waiting`` requests wait already.
        """
        asked = request.options.cache_implementation
        if asked not in ("dynamic", self.cache_implementation):
            raise GenerationError(
                f"the request asks for the cache {asked!r}, and this engine has one for all: "
                f"{self.cache_implementation!r}. Make it with Engine(model, cache_implementation={asked!r})."
            )
        row = running_row(self.model, request, self.tokenizer)
        check_room(row, self.cache, self.max_positions)
        row.accept_written(request.written)
        row.accept_forced()
        if not self._waiting.add(row, self.max_waiting):
            raise EngineFullError(
                f"{self.max_waiting} requests wait already, as many as this engine takes; "
                "submit this one again after some have ended."
            )
        return row.handle

    @property
    def num_running(self) -> int:
        """How many requests run; the others wait."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not self._running and not self._ended and self._waiting.first() is None

    def run(self) -> Iterator[NewIds]:
        """Step until no request is left, and yield what each step gives."""
        while not self.is_idle:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[NewIds]:
        """Feed every lane its next ids, choose what follows, and return each request's new ids."""
        with self._step_lock:
            self._end_overdue()
            self._admit()
            feeds = self._feeds()
            if feeds:
                lanes = [(lane.cached, ids) for _, feed in feeds for lane, ids in feed.lanes]
                hidden_ME = self.model.feed_lanes(lanes, self.cache)
                self._choose(feeds, hidden_ME)
            return self._events()

    def _end_overdue(self) -> None:
        """End the requests that were cancelled or whose time is over, running or waiting."""
        now = time.monotonic()
        for each in [*self._running, *self._waiting.rows()]:
            if each.handle.is_cancelled:
                each.row.finish_reason = "cancelled"
            elif each.is_overdue(now):
                each.row.finish_reason = "timeout"
        self._ended += self._waiting.remove_ended()
        self._ended += [each for each in self._running if each.row.finish_reason is not None]
        self._running = [each for each in self._running if each.row.finish_reason is None]

    def _admit(self) -> None:
        """Start waiting rows while there is room."""
        while self.max_rows is None or len(self._running) < self.max_rows:
            each = self._waiting.first()
            if each is None or self.prefixes.is_being_computed(each.row.prompt):
                return
            if not self._has_room(each.expected_room(self.cache)) and self._running:
                return
            self._waiting.remove(each)
            each.start(self.cache, self.prefixes)
            self._running.append(each)

    def _feeds(self) -> list[tuple[RunningRow[LaneT], Feed[LaneT]]]:
        """Return what each running row is fed in this step, after those that there is no room for were suspended."""
        while True:
            budget = self.prompt_chunk
            feeds = []
            for each in self._running:
                feed = each.next_feed(budget)
                if feed.lanes:
                    feeds.append((each, feed))
                if budget is not None:
                    budget -= feed.prompt_ids
            is_bounded = self.max_positions is not None and len(self._running) > 1
            if not is_bounded or self._has_room(sum(feed.growth(self.cache) for _, feed in feeds)):
                return feeds
            last = max(self._running, key=lambda each: each.order)
            last.stop(self.cache, self.prefixes)
            self._running.remove(last)
            self._waiting.put_back(last)

    def _has_room(self, positions: int) -> bool:
        return self.max_positions is None or self.cache.positions + positions <= self.max_positions

    def _choose(self, feeds: Sequence[tuple[RunningRow[LaneT], Feed[LaneT]]], hidden_ME: Tensor) -> None:
        """Choose the ids after each row that has been fed all that it has, and let the rows take them."""
        points: list[list[Point]] = []
        start = 0
        for each, feed in feeds:
            points.append(each.points(feed, start))
            start += sum(len(ids) for _, ids in feed.lanes)
        chosen = iter(self._chooser.choose(list(itertools.chain(*points)), hidden_ME))
        for (each, feed), own in zip(feeds, points, strict=True):
            each.take(feed, list(itertools.islice(chosen, len(own))), self.cache, self.prefixes)

    def _events(self) -> list[NewIds]:
        """Return what is new, and drop the rows that have ended."""
        events = []
        for each in [*self._ended, *self._running]:
            event = each.new_event()
            if event is not None:
                events.append(event)
            if each.row.finish_reason is not None:
                each.stop(self.cache, self.prefixes)
        self._ended = []
        self._running = [each for each in self._running if each.row.finish_reason is None]
        return events


def _bytes_per_position(model: Decoder[Any]) -> int:
    """Return the memory of a position's keys and values in all layers, in the model's own type."""
    config = model.config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return numbers * model.lm_head.weight.element_size()
