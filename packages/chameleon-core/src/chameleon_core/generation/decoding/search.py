"""The contract of searches: several hypotheses of a row's text run beside each other, and the best one is written.

A strategy whose ``start`` returns a searcher decides what is written, unlike one that guesses. Nothing is written
before the search has ended.

Shapes: J running hypotheses, A ids that may come next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..rows import FinishReason


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that a row may write."""

    ids: tuple[int, ...]
    """Its ids after the prompt."""
    score: float
    """How good it is, in the searcher's own terms: more is better."""
    finish_reason: FinishReason | None = None
    """Why it ended; None while it runs."""


class Continuation(NamedTuple):
    """A running hypothesis with one more id."""

    parent: int
    """The place of the hypothesis among the running ones."""
    token_id: int
    """The id that follows it."""
    score: float
    """The score of both together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchView:
    """What a searcher knows of its row after a pass."""

    running: tuple[Hypothesis, ...]
    """The running hypotheses in the order in which ``extend`` returned them, all of one length; at first one without
    ids and of score 0. Those after which no id is allowed are left out."""
    ids_A: Tensor
    """int64, the ids that may come next, ascending."""
    log_probs_JA: Tensor
    """float32, the log-probability of each id after each hypothesis, changed by the row's logits processors and not
    normalized again; ``FORBIDDEN`` where the id may not come."""
    noise_JA: Tensor | None
    """float32, Gumbel noise that belongs to the seed, the row, the position, the hypothesis's place and the id; None
    where ids aren't sampled."""
    limit: int
    """The largest number of ids of a hypothesis."""
    ending: Callable[[Continuation], FinishReason | None]
    """Returns why a continuation is complete, None where it may run on."""


@runtime_checkable
class Searcher(Protocol):
    """What searches for one row. Its state is the row's alone."""

    @property
    def width(self) -> int:
        """How many hypotheses run at most, ≥ 1, a constant."""
        ...

    def extend(self, view: SearchView, /) -> Sequence[Continuation]:
        """Return the continuations that run on, none where the search has ended.

        They are at most ``width`` of those that ``view.ending`` says may run on. The searcher keeps the complete ones
        that it wants, with ``view.ending``'s reason.
        """
        ...

    def results(self, running: Sequence[Hypothesis], /) -> Sequence[Hypothesis]:
        """Return what was found, best first: complete hypotheses, and some of ``running``.

        ``running`` are those that were cut off, as by ``cancel``; none where ``extend`` ended the search.
        """
        ...
