"""What the engine is asked, and what it answers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .decoding import Hypothesis
from .options import GenerationOptions
from .processors import ExtraProcessors
from .rows import FinishReason

_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One row to generate."""

    prompt: Sequence[int]
    """The ids of the prompt, at least one."""
    options: GenerationOptions = field(default_factory=GenerationOptions)
    """The options of generation."""
    index: int = 0
    """The number of the row among those of one seed, ≥ 0: rows of one prompt and seed differ by it."""
    priority: int = 0
    """Requests of a higher priority run first; 0 by default. Those of one priority run in the order of arrival."""
    written: Sequence[int] = ()
    """Ids that the row has written already, in a run that was interrupted; none by default. It goes on after them as if
    it had never stopped: they count as new ones, not as the prompt's."""
    timeout: float | None = None
    """Seconds after which the request ends with what it has, > 0; None, the default, for no limit."""
    processors: ExtraProcessors | None = None
    """Logits processors besides those of the options, which requests made together share; None, the
    default, for none."""


@dataclass(slots=True, eq=False)
class RequestHandle:
    """A request in the engine: what it has written so far, and how it ended."""

    request: Request
    """What was asked."""
    number: int = field(default_factory=lambda: next(_NUMBERS))
    """The number of the request, ascending in the order of arrival."""
    new_ids: list[int] = field(default_factory=list)
    """The ids after the prompt."""
    finish_reason: FinishReason | None = None
    """Why the request ended; None while it waits or runs."""
    hypotheses: tuple[Hypothesis, ...] = ()
    """What a search found, best first: the first has ``new_ids``. None without a search, and while it runs."""
    error: Exception | None = None
    """What went wrong where the reason is "error"."""
    is_cancelled: bool = False
    """Whether ``cancel`` was called."""
    deadline: float | None = None
    """When its time is over, on the clock ``time.monotonic``; None for no limit."""

    def __post_init__(self) -> None:
        self.new_ids += self.request.written
        limits = [each for each in (self.request.timeout, self.request.options.max_time) if each is not None]
        if limits:
            self.deadline = time.monotonic() + min(limits)

    def cancel(self) -> None:
        """End the request before the next step, with the ids that it has. Any thread may call it, at any time."""
        self.is_cancelled = True

    @property
    def is_done(self) -> bool:
        """Whether the request has ended."""
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True, eq=False)
class NewIds:
    """What one step gave a request."""

    handle: RequestHandle
    """The request."""
    ids: tuple[int, ...]
    """Its new ids, none where it ended without one."""
    finish_reason: FinishReason | None
    """Why it ended; None while it runs."""
