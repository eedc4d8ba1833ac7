"""What a row of the benchmark is: a name, and a contest between ours, theirs and the machine's limit."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, ParamSpec, TypeVar

Side = Callable[[], float]
"""Runs the work of a row once and returns its figure in the row's unit; less is better."""
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class Scale(StrEnum):
    """How large the work of the rows is. Only the figures of ``FULL`` are those of the tables."""

    FULL = "full"
    QUICK = "quick"
    """Smaller work and fewer repeats, in less than three minutes on two idle cores."""
    TINY = "tiny"
    """Seconds: it shows that the rows run, and its figures mean nothing."""

    def pick(self, full: Value, quick: Value, tiny: Value) -> Value:
        """Return the value of this scale."""
        return {Scale.FULL: full, Scale.QUICK: quick, Scale.TINY: tiny}[self]


class DifferentResultsError(Exception):
    """The two sides of a row computed different things, so their figures can't be compared."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What the machine can do at best."""

    name: str
    """The work that can't be left out, such as "reading 2.16 GB"."""
    side: Side
    """Returns the figure of that work alone, measured in turn with the sides."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A row that is ready to be measured."""

    ours: Side
    theirs: Side | None = None
    """The same work with ``transformers``; None where it has no such thing."""
    limit: Limit | None = None
    compare: Callable[[], None] = lambda: None
    """Compares the results of both sides, before anything is measured. Raises ``DifferentResultsError``."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row should reach at full scale; None for what has no goal."""

    peer: float | None = None
    """How many times as fast as the peer, at least."""
    limit: float | None = None
    """The share of the limit's speed, at least."""
    figure: float | None = None
    """The figure in the row's unit, at most."""
    over_limit: float | None = None
    """How much the figure may be above the limit's, in the row's unit."""

    def __str__(self) -> str:
        parts = (
            (self.peer, f"{self.peer}× peer"),
            (self.limit, f"{self.limit} of limit"),
            (self.figure, f"≤ {self.figure:,}" if self.figure is not None else ""),
            (self.over_limit, f"limit + {self.over_limit}"),
        )
        return ", ".join(text for value, text in parts if value is not None)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    name: str
    summary: str
    """What is measured, in a phrase."""
    prepare: Callable[[Scale], Contest]
    """Makes the models and inputs of a scale."""
    unit: str = "ms"
    goal: Goal = Goal()


def milliseconds(call: Callable[[], object], *, per: float = 1) -> Side:
    """Return a side that times a call, which does ``per`` pieces of work."""

    def side() -> float:
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began) / per

    return side


def release() -> None:
    """Free what the last row made; models hold cycles."""
    gc.collect()


class LatestOnly(Generic[Arguments, Value]):
    """Keeps what a function returned last, for rows that share it; it is freed before something else is made."""

    def __init__(self, make: Callable[Arguments, Value]) -> None:
        self.make = make
        self.kept: dict[object, Value] = {}

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        """Return what the function makes of the arguments, which are hashable."""
        key = (args, tuple(sorted(kwargs.items())))
        if key not in self.kept:
            self.kept.clear()
            release()
            self.kept[key] = self.make(*args, **kwargs)
        return self.kept[key]
