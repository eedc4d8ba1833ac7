"""Measures a row: its sides take turns, and what other processes took of the processor meanwhile is counted."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .row import Contest, Row, Scale, Side

DISTURBED = 0.1
"""The cores that other processes may take while a row is measured."""
MINIMUM_DETECTED = 0.5
"""Seconds of processing by others below which nothing is said: the system counts in hundredths of a second."""


@dataclass(slots=True)
class Figures:
    """The figures of one side, one for each repeat."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the range of the repeats, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median if self.median else 0.0


@dataclass(slots=True)
class Measured:
    """A row with its figures."""

    row: Row
    ours: Figures = field(default_factory=Figures)
    theirs: Figures | None = None
    limit: Figures | None = None
    limit_name: str | None = None
    others: float | None = None
    """The cores that other processes, or other machines on this computer, took meanwhile; None where the system doesn't
    say."""
    seconds: float = 0.0
    """What the row took in all."""
    error: str | None = None
    """Why there are no figures."""

    @property
    def times_peer(self) -> float | None:
        """How many times as fast as the peer."""
        return self.theirs.median / self.ours.median if self.theirs and self.ours.median else None

    @property
    def share_of_limit(self) -> float | None:
        """The share of the limit's speed."""
        return self.limit.median / self.ours.median if self.limit and self.ours.median else None

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes took the processor meanwhile."""
        return self.others is not None and self.others > DISTURBED

    @property
    def missed(self) -> list[str]:
        """The goals that aren't reached, in words."""
        if self.error is not None:
            return []
        goal, found = self.row.goal, []
        if goal.peer is not None and self.times_peer is not None and self.times_peer < goal.peer:
            found.append("peer")
        if goal.limit is not None and self.share_of_limit is not None and self.share_of_limit < goal.limit:
            found.append("limit")
        if goal.figure is not None and self.ours.median > goal.figure:
            found.append("figure")
        over = None if goal.over_limit is None or self.limit is None else self.limit.median + goal.over_limit
        if over is not None and self.ours.median > over:
            found.append("figure over limit")
        return found


def measure(row: Row, scale: Scale, *, repeats: int | None = None, seconds: float | None = None) -> Measured:
    """Prepare a row, compare the results of its sides, and measure them in turn. Errors are kept, not raised.

    ``repeats`` is how often each side runs at most, and ``seconds`` the time after which three times are enough; both
    are the scale's by default.
    """
    repeats = scale.pick(7, 2, 1) if repeats is None else repeats
    seconds = scale.pick(40.0, 3.0, 0.0) if seconds is None else seconds
    measured, began = Measured(row), time.perf_counter()
    try:
        contest = row.prepare(scale)
        contest.compare()
        with counting_others() as others:
            _take_turns(contest, measured, repeats=repeats, seconds=seconds, warm_up=scale is not Scale.TINY)
        measured.others = others[0] if others else None
    except (Exception, SystemExit) as error:
        # One row that can't run, for whatever reason, must not keep the others from running; a script's helper that
        # gives up ends the script.
        measured.error = f"{type(error).__name__}: {error}".splitlines()[0]
    measured.seconds = time.perf_counter() - began
    return measured


def _take_turns(contest: Contest, measured: Measured, *, repeats: int, seconds: float, warm_up: bool) -> None:
    """Run the sides after each other, again and again; after ``seconds`` three repeats are enough."""
    sides: list[tuple[Side, Figures]] = [(contest.ours, measured.ours)]
    if contest.theirs is not None:
        measured.theirs = Figures()
        sides.append((contest.theirs, measured.theirs))
    if contest.limit is not None:
        measured.limit, measured.limit_name = Figures(), contest.limit.name
        sides.append((contest.limit.side, measured.limit))
    if warm_up:
        for side, _ in sides:
            side()
    end = time.perf_counter() + seconds
    for repeat in range(repeats):
        if repeat >= min(3, repeats) and time.perf_counter() > end:
            break
        for side, figures in sides:
            figures.values.append(side())


@contextmanager
def counting_others() -> Iterator[Sequence[float]]:
    """Yield a list that, at the end, holds the cores that others took meanwhile; empty where the system doesn't say."""
    others: list[float] = []
    before, own, began = busy_seconds(), own_seconds(), time.perf_counter()
    yield others
    after = busy_seconds()
    if before is not None and after is not None:
        taken = (after - before) - (own_seconds() - own)
        others.append(taken / (time.perf_counter() - began) if taken > MINIMUM_DETECTED else 0.0)


def busy_seconds() -> float | None:
    """Return the seconds that all cores were busy since the start, time stolen by the host included (Linux)."""
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the seconds of processor time of this process and of those that it ran."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
