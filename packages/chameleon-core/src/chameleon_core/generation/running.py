"""A row while the engine runs it: its lanes, what it is fed next, and what it takes of what was chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import torch

from ..errors import ChameleonCoreError, ContextLengthError, GenerationError
from ..layout import TokenLayout
from .choosing import Point
from .decoder import Decoder, LaneCacheLike, LaneT, TextDecoder
from .decoding import RowGuesser, row_guessers
from .guidance import guidance_branches
from .options import Modality
from .prefix_cache import PrefixCache, PrefixKey
from .processors import Kind, ProcessorChain, RowView, processor_chain
from .requests import NewIds, Request, RequestHandle
from .rows import Row, start_row

# How many positions a new lane has room for beyond its prompt; it grows when that is not enough.
SPARE_POSITIONS = 128


@dataclass(slots=True, eq=False)
class Lane(Generic[LaneT]):
    """One lane of a row."""

    cached: LaneT
    """Its keys and values."""
    pending: list[int]
    """The ids that it hasn't been fed, at least one."""
    weight: float = 1.0
    """The weight of its logits in the guided sum."""
    is_branch: bool = False
    """Whether it is a branch of the guidance instead of the row's whole context."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed(Generic[LaneT]):
    """What a row is fed in one step."""

    owner: RunningRow[LaneT]
    """The row."""
    lanes: list[tuple[Lane[LaneT], list[int]]]
    """Its lanes with their ids; none where it waits for the prompts of others."""
    offsets: tuple[int, ...] = ()
    """Where ids are chosen, counted from the last pending id, 0; none while the row hasn't been fed all it has."""
    guesses: tuple[int, ...] = ()
    """The ids that follow the last pending one on trial."""

    @property
    def prompt_ids(self) -> int:
        """How many ids there are besides the last one of each lane and the guesses."""
        return sum(len(ids) - len(self.guesses) - bool(self.offsets) for _, ids in self.lanes)

    def growth(self, cache: LaneCacheLike[LaneT]) -> int:
        """Return how many positions the lanes that outgrow their room take more."""
        lengths = [(lane.cached.capacity, lane.cached.length + len(ids)) for lane, ids in self.lanes]
        return sum(cache.capacity_for(length) - capacity for capacity, length in lengths if length > capacity)

    def points(self, start: int) -> list[Point]:
        """Return the points of choice; ``start`` is the index of the feed's first hidden state in the pass."""
        ends = list(itertools.accumulate((len(ids) for _, ids in self.lanes), initial=start))[1:]
        lasts = [end - 1 - len(self.guesses) for end in ends]
        weights = tuple(lane.weight for lane, _ in self.lanes)
        owner = self.owner
        position = len(owner.row.prompt) + len(owner.row.new_ids)
        kind = owner.kind
        state, points = owner.states[kind], []
        for number, offset in enumerate(self.offsets):
            if number:
                for token_id in self.guesses[self.offsets[number - 1] : offset]:
                    state = owner.chains[kind].advance(state, token_id)
            places = tuple(last + offset for last in lasts)
            points.append(Point(owner.row, places, weights, position + offset, owner.chains[kind], state, owner.seed))
        return points


@dataclass(slots=True, eq=False)
class RunningRow(Generic[LaneT]):
    """A row with what it needs to run."""

    row: Row
    """Its ids and its state."""
    handle: RequestHandle
    """What the caller has of it."""
    seed: int | None
    """The seed of its noise; None takes the likeliest ids."""
    chains: dict[Kind, ProcessorChain]
    """What changes its logits, for "text" and for "image"."""
    states: dict[Kind, Any]
    """The states of the chains after the row's ids."""
    guessers: dict[Kind, RowGuesser]
    """What guesses its next ids, for "text" and for "image"; none where nothing is guessed."""
    tokenizer: TextDecoder | None
    """What decodes text, for stop strings."""
    lanes: list[Lane[LaneT]] = field(default_factory=list)
    """Its lanes, the whole context first; none while it waits."""
    computing: PrefixKey | None = None
    """What the prefix cache calls the beginning of the prompt that the row computes; None once it has."""
    reported: int = 0
    """How many of its new ids the engine has returned."""

    @property
    def kind(self) -> Kind:
        """What it chooses next."""
        return "image" if self.row.picture is not None else "text"

    @property
    def order(self) -> tuple[int, int]:
        """What rows are sorted by: those that run first have the least."""
        return -self.handle.request.priority, self.handle.number

    @property
    def expected_length(self) -> int:
        """How many positions it will take, as far as that is known."""
        row = self.row
        ahead = min(row.room, SPARE_POSITIONS)
        if row.modality == "image":
            ahead = self._picture_ahead
        return len(row.prompt) + len(row.new_ids) + ahead

    @property
    def _picture_ahead(self) -> int:
        """How many positions the open picture will take, as far as its size is known."""
        assert self.row.picture is not None
        left = self.row.picture.ids_left
        return left if self.row.picture.grid is not None else min(left, SPARE_POSITIONS)

    def start(self, cache: LaneCacheLike[LaneT], prefixes: PrefixCache) -> None:
        """Get lanes, and what is known of the beginning of the prompt."""
        ids = self.row.ids
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
                return Feed(self, [])
            return Feed(self, [(lane, [*lane.pending, *guesses]) for lane in self.lanes], offsets, guesses)
        lanes = []
        for lane in self.lanes:
            ids = lane.pending[:-1][:budget]
            budget -= len(ids)
            if ids:
                lanes.append((lane, ids))
        return Feed(self, lanes)

    def take(
        self,
        feed: Feed[LaneT],
        chosen: Sequence[int | ChameleonCoreError],
        cache: LaneCacheLike[LaneT],
        prefixes: PrefixCache,
    ) -> None:
        """Take the chosen ids as far as the guesses before them were right, and forget what was wrong."""
        if not feed.offsets:
            for lane, ids in feed.lanes:
                del lane.pending[: len(ids)]
            return
        if self.computing is not None:
            prefixes.store(self.lanes[0].cached, self.row.prompt)
            self._end_prefix(prefixes)
        guesser = self.guessers.get(self.kind)
        new: list[int] = []
        kept = accepted = 0
        for number, token_id in enumerate(chosen):
            if isinstance(token_id, ChameleonCoreError):
                if not number:
                    self._fail(token_id)
                    return
                break
            new = self._accept(token_id)
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

    def accept_forced(self) -> list[int]:
        """Accept ids while only one is allowed, and return them."""
        forced = []
        while (token_id := self.row.forced_id) is not None:
            self._take_one(token_id)
            forced.append(token_id)
        return forced

    def _fail(self, error: ChameleonCoreError) -> None:
        self.handle.error, self.row.finish_reason = error, "error"

    def _accept(self, token_id: int) -> list[int]:
        self._take_one(token_id)
        if self.row.finish_reason != "stop" and self._has_stop_string():
            self.row.finish_reason = "stop"
        return [token_id, *self.accept_forced()]

    def _take_one(self, token_id: int) -> None:
        self.row.accept(token_id)
        for kind, chain in self.chains.items():
            self.states[kind] = chain.advance(self.states[kind], token_id)

    def _end_prefix(self, prefixes: PrefixCache) -> None:
        if self.computing is not None:
            prefixes.finish(self.computing)
            self.computing = None

    def _guesses(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids to feed on trial, and the offsets at which ids are chosen."""
        guesser = self.guessers.get(self.kind)
        return ((), (0,)) if guesser is None else guesser.guess(self.row)

    def _branch(self, cache: LaneCacheLike[LaneT]) -> None:
        """Add lanes for the guidance where a picture has begun, and drop them once its codes are complete."""
        main, *branches = self.lanes
        if not self.row.lacks_codes or self.row.finish_reason is not None:
            for lane in branches:
                cache.free(lane.cached)
            self.lanes = [main]
            main.weight = 1.0
        elif not branches:
            options = self.handle.request.options
            assert self.row.layout is not None
            weights = guidance_branches(
                self.row.ids,
                self.row.layout,
                options.guidance_text,
                options.guidance_image,
                options.negative_prompt_ids,
            )
            main.weight = 1 - sum(weights.values())
            for context, weight in weights.items():
                cached = cache.add(len(context) + self._picture_ahead)
                self.lanes.append(Lane(cached, list(context), weight, is_branch=True))

    def _has_stop_string(self) -> bool:
        """Return whether the newest id completes a stop string in the text since the last picture."""
        stops = self.handle.request.options.stop_strings
        if not stops or self.row.picture is not None:
            return False
        assert self.tokenizer is not None
        # An id is at least one byte of text, so a stop string that ends here began within as many ids as it has bytes.
        longest = max(len(stop.encode()) for stop in stops)
        tail = list(itertools.takewhile(self._is_text, reversed(self.row.new_ids[-longest:])))
        text = self.tokenizer.decode(tail[::-1])
        return any(stop in text for stop in stops)

    def _is_text(self, token_id: int) -> bool:
        return self.row.layout is None or bool(self.row.layout.text_allowed_V[token_id])


KINDS: dict[Modality, tuple[Kind, ...]] = {
    "text": ("text",),
    "image": ("image",),
    "interleaved": ("text", "image"),
}
"""What is chosen of each modality."""


def running_row(model: Decoder[LaneT], request: Request, tokenizer: TextDecoder | None) -> RunningRow[LaneT]:
    """Return a row that waits to run. Raises ``GenerationError`` or ``ContextLengthError`` where it can't."""
    config, options = model.config, request.options
    if options.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings are searched in the decoded text: pass tokenizer=processor.tokenizer.")
    sequences = itertools.chain.from_iterable(options.forbidden_sequences)
    for name, ids in (
        ("stop_ids", options.stop_ids),
        ("forbidden_ids", options.forbidden_ids),
        ("negative_prompt_ids", options.negative_prompt_ids),
        ("forbidden_sequences", sequences),
    ):
        beyond = [token_id for token_id in ids if token_id >= config.vocab_size]
        if beyond:
            raise GenerationError(
                f"{name} {beyond[:8]} are outside the vocabulary; ids must be below {config.vocab_size}."
            )
    outside = sorted({token_id for token_id in request.prompt if not 0 <= token_id < config.vocab_size})
    if outside:
        raise GenerationError(
            f"row {request.index} has ids {outside[:8]}, which are outside the vocabulary; "
            f"ids must be below {config.vocab_size}."
        )
    layout = None if config.vocabulary_map is None else model.layout
    if layout is not None and not layout.has_text and options.modality != "image":
        raise GenerationError(
            f"modality={options.modality!r} writes text, and the config's vocabulary_map names no ids of text: every "
            "name is that of a picture code or of a special token. Build the config with "
            "vocabulary_map=processor.tokenizer.token_ids, or attach the tokenizer: model.attach_tokenizer(tokenizer)."
        )
    ends = _end_ids(config.eos_token_ids, layout)
    row = start_row(
        request.index,
        request.prompt,
        options,
        layout=layout,
        context_length=config.context_length,
        stop_ids=frozenset(ends.union(options.stop_ids)),
    )
    longest = len(options.negative_prompt_ids) + len(row.prompt) + row.limit
    if options.negative_prompt_ids and longest > config.context_length:
        raise ContextLengthError(
            f"the negative prompt has {len(options.negative_prompt_ids)} ids, with the rest up to {longest}; "
            f"the context holds {config.context_length}. Shorten it."
        )
    chains: dict[Kind, ProcessorChain] = {}
    states: dict[Kind, Any] = {}
    view = RowView(
        prompt=row.prompt,
        options=options,
        layout=layout,
        tokenizer=tokenizer,
        kind="text",
        stop_ids=row.stop_ids,
    )
    for kind in KINDS[options.modality]:
        chains[kind] = processor_chain(options, kind)
        states[kind] = chains[kind].start(replace(view, kind=kind))
    seed = None
    if options.do_sample:
        # From torch's own generator, so that torch.manual_seed makes a run repeatable.
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
    guessers = row_guessers(view, KINDS[options.modality], config.vocab_size)
    running: RunningRow[LaneT] = RunningRow(row, RequestHandle(request), seed, chains, states, guessers, tokenizer)
    running.accept_forced()
    return running


def check_room(row: RunningRow[LaneT], cache: LaneCacheLike[LaneT], max_positions: int | None) -> None:
    """Raise ``ContextLengthError`` where a row may need more positions than there are, even alone.

    A row that may write as much as the context holds writes as much as there is room for.
    """
    if max_positions is None:
        return
    options = row.handle.request.options
    branches = 2 if options.modality != "text" and (options.guidance_text, options.guidance_image) != (1, 1) else 0
    length = len(row.row.prompt) + row.row.limit
    while options.max_new_tokens is None and options.modality != "image" and length > len(row.row.prompt) + 1:
        if (1 + branches) * cache.capacity_for(length) <= max_positions:
            break
        length -= 1
        row.row.limit -= 1
    needed = (1 + branches) * cache.capacity_for(length)
    if needed > max_positions:
        raise ContextLengthError(
            f"the request may take {length} positions in each of {1 + branches} lanes, which is room for {needed}; "
            f"the engine has max_positions={max_positions}. Raise it, shorten the prompt or lower max_new_tokens."
        )


def _end_ids(eos_token_ids: Sequence[int], layout: TokenLayout | None) -> set[int]:
    ends = set(eos_token_ids)
    if layout is not None and layout.eos_id not in ends:
        # The vocabulary's own names decide; the ids of such a config are the defaults of another vocabulary.
        ends = {layout.eos_id}
    return ends
