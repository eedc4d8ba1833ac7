"""Runs rows on an engine that knows requests alone: groups are admitted whole, watched, and retried.

A row is written in stretches: text is one request, and a guided picture a group of them. A stretch begins after all
that the row has written, so that one which was broken off begins anew where it ended, and nothing is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from chameleon_core import Step
from chameleon_core.generation import FinishReason, RowMachine

from .admission import Admission, Limits, Size
from .errors import EngineError
from .following import Following
from .row_batch import needs_group
from .row_parts import MAX_MEMBERS, RowPart, Signals, options_of

MAX_FAILURES = 3
"""After how many failed steps in a row an engine is given up; before, a step may have lacked memory."""
MAX_TRIES = 8
"""How often a stretch may be broken off without an id before its row fails; from half of that on it runs alone."""


class Output(NamedTuple):
    """What a step gave a request."""

    ids: Sequence[int]
    """Its new ids."""
    is_finished: bool
    """Whether the engine has ended it."""


class RequestEngine(Protocol):
    """What runs requests."""

    limits: Limits

    def add(self, name: str, ids: Sequence[int], part: RowPart, *, max_ids: int, stop_ids: Sequence[int]) -> None:
        """Add a request, which writes at most ``max_ids`` and ends with one of ``stop_ids``."""
        ...

    def abort(self, names: Sequence[str]) -> None:
        """End requests; those that have ended or aren't known are left out."""
        ...

    def step(self) -> Mapping[str, Output]:
        """Compute one id of each request that runs, and return what each got."""
        ...


@dataclass(eq=False, slots=True)
class RowHandle:
    """A row on the engine."""

    following: Following
    """What of it its stretch has written."""
    unread: deque[tuple[int | None, FinishReason | None]] = field(default_factory=deque)
    """New ids that its reader hasn't read yet, the last of all with why the row ended; None where no id is new then.

    The reader is another thread than the one that steps, and so learns of the end with the last id, not before."""
    members: list[str] = field(default_factory=list)
    """The names of the requests of its stretch; none while it waits."""
    tries: int = 0
    """How many stretches were broken off since the last id."""
    deadline: float | None = None
    """When its time is over, on the clock ``time.monotonic``; None for no limit."""
    error: Exception | None = None
    """What went wrong, which ends it."""

    @property
    def machine(self) -> RowMachine:
        """Its state: what all its requests agree on."""
        return self.following.machine

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.error is not None or self.machine.finish_reason is not None

    def publish(self, ids: Sequence[int]) -> None:
        """Hand new ids to the reader, and why the row ended where it has."""
        read: list[tuple[int | None, FinishReason | None]] = [(token_id, None) for token_id in ids]
        reason = self.machine.finish_reason
        if reason is not None:
            last = read.pop()[0] if read else None
            read.append((last, reason))
        self.unread.extend(read)

    @property
    def is_overdue(self) -> bool:
        """Whether its time is over and it has an id."""
        return self.deadline is not None and time.monotonic() >= self.deadline and bool(self.machine.new_ids)


class Runner:
    """Runs rows on one engine. Any thread may use it; one at a time steps."""

    def __init__(self, engine: RequestEngine, signals: Signals) -> None:
        self.engine = engine
        self.signals = signals
        self.admission = Admission(engine.limits)
        self.splits = 0
        """How many stretches were broken off because their members weren't in step."""
        self.failures = 0
        """How many steps have failed since the last that didn't."""
        self._waiting: deque[RowHandle] = deque()
        self._running: list[RowHandle] = []
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def submit(self, machine: RowMachine, *, given: int = 0) -> RowHandle:
        """Add a row, which starts when there is room, and of whose new ids the first ``given`` are known.

        Raises ``ContextLengthError`` where there is never room.
        """
        handle = RowHandle(Following(machine, self.signals))
        name = f"row {machine.row.index}"
        options = machine.options
        self.admission.check(self._size(machine, self._contexts(machine)), name)
        if options.modality == "interleaved" and (options.guidance_text, options.guidance_image) != (1, 1):
            # Its pictures have no more ids before them and in them than the row, in each of the contexts.
            length = len(machine.row.prompt) + machine.row.limit
            positions = MAX_MEMBERS * self.engine.limits.positions(length)
            self.admission.check(Size(MAX_MEMBERS, MAX_MEMBERS * length, positions), f"{name}, guided,")
        if options.max_time is not None:
            handle.deadline = time.monotonic() + options.max_time
        handle.publish(machine.new_ids[given:])
        with self._lock:
            if not handle.is_done:
                self._waiting.append(handle)
        return handle

    def cancel(self, handles: Sequence[RowHandle]) -> None:
        """End rows with what they have."""
        with self._lock:
            for handle in handles:
                if not handle.is_done:
                    handle.machine.row.finish_reason = "cancelled"
                self._break_off(handle)
                if handle in self._waiting:
                    self._waiting.remove(handle)

    def step(self) -> None:
        """Start what there is room for, compute an id of each running row, and let the rows take them.

        Raises ``EngineError`` where the engine fails, with which all rows that run have failed: nobody knows which ids
        the engine has computed for them.
        """
        with self._lock:
            self._admit()
            if not self._running:
                return
            try:
                outputs = self.engine.step()
            except Exception as error:
                self.failures += 1
                self._fail_all(f"vLLM's engine failed: {type(error).__name__}: {error}")
                raise EngineError(f"vLLM's engine failed: {error}.") from error
            self.failures = 0
            self.admission.stepped()
            for handle in list(self._running):
                try:
                    self._take(handle, [outputs.get(name) for name in handle.members])
                except Exception as error:
                    handle.error = error
                    self._break_off(handle)

    def run(
        self, machines: Sequence[RowMachine], should_stop: Callable[[], bool], *, given: Sequence[int] | None = None
    ) -> Generator[Step]:
        """Run rows until all have ended or ``should_stop()`` is true, and yield an id for each at a time.

        ``given`` are how many new ids of each row are known, which aren't yielded; by default none are. Raises the
        error of the first row that fails. Rows of others run on meanwhile.
        """
        counts = [0] * len(machines) if given is None else given
        handles = [self.submit(machine, given=count) for machine, count in zip(machines, counts, strict=True)]
        return self._steps(handles, should_stop)

    def _steps(self, handles: Sequence[RowHandle], should_stop: Callable[[], bool]) -> Generator[Step]:
        reasons: list[FinishReason | None] = [None] * len(handles)
        try:
            while None in reasons and not should_stop():
                if not any(handle.unread for handle in handles):
                    self.step()
                    for handle in handles:
                        if handle.error is not None:
                            raise handle.error
                read = [handle.unread.popleft() if handle.unread else (None, None) for handle in handles]
                reasons = [reason or before for (_, reason), before in zip(read, reasons, strict=True)]
                if any(each != (None, None) for each in read):
                    yield Step(tuple(token_id for token_id, _ in read), tuple(reasons))
        finally:
            self.cancel(handles)

    def _admit(self) -> None:
        """Start the stretches that there is room for, in the order in which they wait."""
        while self._waiting:
            handle = self._waiting[0]
            contexts = self._contexts(handle.machine)
            size = self._size(handle.machine, contexts)
            if not self.admission.fits(size, alone=handle.tries >= MAX_TRIES // 2):
                return
            self._waiting.popleft()
            try:
                self._start(handle, contexts, size)
            except Exception as error:  # its own, and not that of whoever steps
                handle.error = error
                self._break_off(handle)
                continue
            if handle.tries >= MAX_TRIES // 2:
                return

    def _start(self, handle: RowHandle, contexts: Sequence[tuple[tuple[int, ...], float]], size: Size) -> None:
        machine, number = handle.machine, next(self._numbers)
        group = f"group-{number}" if needs_group(machine) else ""
        weights = tuple(weight for _, weight in contexts)
        row: dict[str, Any] = {
            "options": dict(options_of(machine.options.replace(seed=machine.seed))),
            "prompt_length": len(machine.row.prompt),
            "index": machine.row.index,
        }
        stops = sorted({*machine.row.stop_ids, *self.signals})
        for member, (ids, _) in enumerate(contexts):
            part = RowPart(group=group, member=member, weights=weights, **({} if member else row))
            name = f"{number}-{member}"
            self.engine.add(name, ids, part, max_ids=_ahead(machine), stop_ids=stops)
            handle.members.append(name)
        handle.following.start()
        self.admission.start(handle, size)
        self._running.append(handle)

    def _take(self, handle: RowHandle, outputs: Sequence[Output | None]) -> None:
        """Let a row take what all members of its stretch got, or break the stretch off where that isn't the same."""
        is_finished = any(output is not None and output.is_finished for output in outputs)
        found = {() if output is None else tuple(output.ids) for output in outputs}
        if found == {()} and not is_finished:
            return  # the prompt is still computed
        ids = found.pop()
        if found or ids[:1] in ((), (self.signals.split,), (self.signals.ended,)):
            self._retry(handle)
            return
        machine, was_group = handle.machine, needs_group(handle.machine)
        new: list[int] = []
        for token_id in ids:
            if machine.finish_reason is None and token_id not in (self.signals.split, self.signals.ended):
                new += handle.following.take(token_id)
                handle.tries = 0
        if machine.finish_reason is None and handle.is_overdue:
            machine.row.finish_reason = "timeout"
        handle.publish(new)
        if machine.finish_reason is not None:
            self._break_off(handle)
        elif is_finished or needs_group(machine) != was_group:
            self._break_off(handle)
            self._waiting.appendleft(handle)

    def _retry(self, handle: RowHandle) -> None:
        """Break a stretch off and let its row wait for another, before all others."""
        handle.tries += 1
        self.splits += 1
        self._break_off(handle)
        if handle.tries >= MAX_TRIES:
            raise EngineError(
                f"row {handle.machine.row.index}: its guided group fell out of step {handle.tries} times without an "
                "id, at last alone on the engine."
            )
        self._waiting.appendleft(handle)

    def _fail_all(self, why: str) -> None:
        """End all rows that run with an error."""
        for handle in list(self._running):
            handle.error = EngineError(f"row {handle.machine.row.index}: {why}.")
            with contextlib.suppress(Exception):  # of an engine that can't even forget them
                self._break_off(handle)
        self.admission.stepped()

    def _break_off(self, handle: RowHandle) -> None:
        members, handle.members = handle.members, []
        self.admission.end(handle)
        if handle in self._running:
            self._running.remove(handle)
        if members:
            self.engine.abort(members)

    def _contexts(self, machine: RowMachine) -> list[tuple[tuple[int, ...], float]]:
        """Return the ids of each member of the next stretch with its weight, those of the row itself first."""
        branches = machine.branches() if needs_group(machine) else {}
        return [(tuple(machine.ids), 1 - sum(branches.values())), *branches.items()]

    def _size(self, machine: RowMachine, contexts: Sequence[tuple[tuple[int, ...], float]]) -> Size:
        ahead = _ahead(machine)
        lengths = [len(ids) for ids, _ in contexts]
        positions = sum(self.engine.limits.positions(length + ahead) for length in lengths)
        return Size(len(contexts), sum(lengths), positions)


def _ahead(machine: RowMachine) -> int:
    """Return how many ids the next stretch may write."""
    segment = machine.row.segment
    if needs_group(machine) and segment is not None and segment.ids_left is not None:
        return min(segment.ids_left, machine.row.room)
    return max(machine.row.room, 1)
