"""Generation with a model whose slices several ranks have: the first rank leads, and the others do what it says.

The first rank has the engine, which decides what is fed and which ids follow. Each pass over lanes of its cache, and
each product with the output layer, is a command that the others carry out on their own slices and caches. Lanes and
what happens to them between passes go along with the next pass.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from ..config import ChameleonConfig
from ..errors import ConfigError
from .lane_cache import CachedLane, LaneCache
from .rank_slices import SliceRanks, use_slices


class Slices:
    """Which slices of a model's weights this process loads, and what then leads the others."""

    def __init__(self, count: int, device: torch.device | str) -> None:
        self.count = count
        self.device = device
        self.ranks: SliceRanks | None = None

    def join(self, config: ChameleonConfig) -> Callable[[str, Tensor], Tensor] | None:
        """Join the other processes, and return what slices a tensor by its name; None where there are no others."""
        if self.count == 1:
            return None
        self.ranks = SliceRanks.join(self.count, config, self.device)
        return self.ranks.own

    def leader_of(self, model: Any) -> Leader | None:
        """Let a model compute together with the other processes; None where there are none."""
        return None if self.ranks is None else Leader(model, self.ranks)


class _Copied:
    """Positions of a lane that each rank has copied of its own cache."""

    def __init__(self, layers: Any, number: int) -> None:
        self.layers = layers
        self.number = number


class LedCache(LaneCache):
    """A cache of lanes of the first rank, whose changes are written down for the others."""

    def __init__(self, cache: LaneCache, number: int, name: str) -> None:
        super().__init__(cache.num_layers)
        self.cache = cache
        self.number = number
        self.changes: list[tuple[Any, ...]] = [("cache", name)]
        self.numbers: dict[CachedLane, int] = {}
        self._next = 0

    @property
    def positions(self) -> int:
        """How many positions the lanes have room for, together."""
        return self.cache.positions

    def add(self, expected: int = 0) -> CachedLane:
        """Return a new, empty lane with room for ``expected`` positions before it must move."""
        return self._numbered(self.cache.add(expected), "add", expected)

    def fork(self, lane: CachedLane) -> CachedLane:
        """Return a copy of a lane, which grows apart from it."""
        return self._numbered(self.cache.fork(lane), "fork", self.numbers[lane])

    def free(self, lane: CachedLane) -> None:
        """Remove a lane."""
        self.changes.append(("free", self.numbers.pop(lane)))
        self.cache.free(lane)

    def truncate(self, lane: CachedLane, length: int) -> None:
        """Forget the positions of a lane from ``length`` on."""
        if length != lane.length:
            self.changes.append(("truncate", self.numbers[lane], length))
        self.cache.truncate(lane, length)

    def copy_out(self, lane: CachedLane, start: int, end: int) -> Any:
        """Return a copy of some positions of a lane."""
        self._next += 1
        copied = _Copied(self.cache.copy_out(lane, start, end), self._next)
        self.changes.append(("copy_out", self.numbers[lane], start, end, copied.number))
        weakref.finalize(copied, self.changes.append, ("forget", copied.number))
        return copied

    def copy_in(self, lane: CachedLane, copied: Any) -> None:
        """Append positions that ``copy_out`` returned to a lane."""
        self.changes.append(("copy_in", self.numbers[lane], copied.number))
        self.cache.copy_in(lane, copied.layers)

    def _numbered(self, lane: CachedLane, change: str, argument: int) -> CachedLane:
        self._next += 1
        self.numbers[lane] = self._next
        self.changes.append((change, argument, self._next))
        return lane


class _FollowedCache:
    """The same lanes in another rank."""

    def __init__(self, cache: LaneCache) -> None:
        self.cache = cache
        self.lanes: dict[int, CachedLane] = {}
        self.copies: dict[int, Any] = {}

    def change(self, kind: str, *arguments: int) -> None:
        """Do what was done to the cache of the first rank."""
        first, *others = arguments
        if kind == "add":
            self.lanes[others[0]] = self.cache.add(first)
        elif kind == "fork":
            self.lanes[others[0]] = self.cache.fork(self.lanes[first])
        elif kind == "free":
            self.cache.free(self.lanes.pop(first))
        elif kind == "truncate":
            self.cache.truncate(self.lanes[first], others[0])
        elif kind == "copy_out":
            self.copies[others[2]] = self.cache.copy_out(self.lanes[first], others[0], others[1])
        elif kind == "copy_in":
            self.cache.copy_in(self.lanes[first], self.copies[others[0]])
        else:
            del self.copies[first]


class Leader:
    """What a model with slices does in the place of one that has all weights; one of each rank."""

    def __init__(self, model: Any, ranks: SliceRanks) -> None:
        self.model = model
        self.ranks = ranks
        self._lock = threading.RLock()
        self._ended: list[int] = []
        self._num_caches = 0
        self.leads = ranks.rank == 0
        self._computes = False
        use_slices(model, ranks, add=self._add, score=self.score)

    def refuse(self, what: str) -> NoReturn:
        """Raise ``ConfigError`` for what a model can't do whose weights several processes have."""
        raise ConfigError(
            f"{what} isn't available with tensor_parallel, where this process has a part of the weights. Load the "
            "model without it; generate, stream_ids and engines are available."
        )

    def new_cache(self, name: str) -> LedCache:
        """Return a cache without lanes. Raises ``ConfigError`` for one whose steps are compiled for whole layers."""
        if name == "static":
            raise ConfigError(
                "cache_implementation 'static' is for a model that one process has; with tensor_parallel use 'dynamic' "
                "or 'int8'."
            )
        with self._lock:
            self._num_caches += 1
            led = LedCache(self.model.model.new_lane_cache(name), self._num_caches, name)
            weakref.finalize(led, self._ended.append, led.number)
            return led

    def feed(self, feeds: Sequence[tuple[CachedLane, Sequence[int]]], led: LaneCache) -> Tensor:
        """Feed lanes new ids in all ranks; return the final hidden states [M, E]."""
        assert isinstance(led, LedCache)
        with self._lock:
            changes = led.changes[:]
            del led.changes[: len(changes)]
            ended = self._ended[:]
            del self._ended[: len(ended)]
            numbered = [(led.numbers[lane], list(ids)) for lane, ids in feeds]
            self.ranks.send(("feed", ended, led.number, changes, numbered))
            with self._together():
                hidden_ME: Tensor = self.model.model.feed_lanes(feeds, led.cache)
            return hidden_ME

    def score(self, hidden_ME: Tensor) -> Tensor:
        """Return the logits [M, V] of hidden states, which all ranks multiply with their rows of the output layer."""
        with self._lock:
            self.ranks.send(("score", tuple(hidden_ME.shape), hidden_ME.dtype))
            dist.broadcast(hidden_ME.contiguous(), 0)
            return self.ranks.gathered(self.model.lm_head.own_logits(hidden_ME))

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        self._computes = True
        try:
            yield
        finally:
            self._computes = False

    def _add(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, which would wait forever where the other ranks don't compute the same."""
        if not self._computes:
            self.refuse("A forward pass of one's own")
        dist.all_reduce(tensor)
        return tensor

    @torch.inference_mode()
    def follow(self) -> None:
        """Do what the first rank says until it is done."""
        caches: dict[int, _FollowedCache] = {}
        while (command := self.ranks.receive()) is not None:
            kind, *arguments = command
            if kind == "score":
                shape, dtype = arguments
                hidden = torch.empty(shape, dtype=dtype, device=self.model.device)
                dist.broadcast(hidden, 0)
                self.ranks.gathered(self.model.lm_head.own_logits(hidden))
                continue
            ended, number, changes, numbered = arguments
            for each in ended:
                caches.pop(each, None)
            for change, *of_change in changes:
                if change == "cache":
                    caches[number] = _FollowedCache(self.model.model.new_lane_cache(of_change[0]))
                else:
                    caches[number].change(change, *of_change)
            followed = caches[number]
            with self._together():
                self.model.model.feed_lanes([(followed.lanes[lane], ids) for lane, ids in numbered], followed.cache)


def check_whole(model: Any, what: str) -> None:
    """Raise ``ConfigError`` for what isn't done to a model whose weights several processes have."""
    leader: Leader | None = getattr(model, "_leader", None)
    if leader is not None:
        leader.refuse(what)


@contextlib.contextmanager
def leading(model: Any) -> Iterator[bool]:
    """Let the first rank generate with a model that was loaded with ``tensor_parallel``.

    Yields True in the first rank. The others follow it until its block ends, and their own block, which runs then, gets
    False. Yields True for a model that one process has.

    >>> with leading(model) as leads:
    ...     if leads:
    ...         print(chameleon.generate("A fox"))
    """
    leader: Leader | None = model._leader
    if leader is None:
        yield True
    elif not leader.leads:
        leader.follow()
        yield False
    else:
        try:
            yield True
        finally:
            leader.ranks.send(None)
