"""How much runs at once: groups start whole, and only where nothing that runs can push a part of them out.

vLLM promises nothing of the kind. It starts as many requests as fit a step, cuts long prompts, and suspends the last
ones where the room for keys and values runs out; each takes a group out of step. So less is handed to it than it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from chameleon_core import ContextLengthError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine has room for."""

    max_requests: int
    """The most requests that run at once, ``max_num_seqs``."""
    max_step_ids: int
    """The most ids that a step computes, ``max_num_batched_tokens``."""
    max_positions: int
    """The room for keys and values, in positions."""
    block_size: int = 1
    """How many positions are allotted together."""

    def positions(self, length: int) -> int:
        """Return the room that a request of this length takes."""
        return -(-length // self.block_size) * self.block_size


@dataclass(frozen=True, slots=True)
class Size:
    """What a group takes."""

    requests: int
    """Its members."""
    prompt_ids: int
    """The ids of all members' prompts, which one step computes."""
    positions: int
    """The room for all members at their full length."""


class Admission:
    """Counts what runs, and says whether a group can start in the next step."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._running: dict[object, Size] = {}
        self._starting = 0

    def check(self, size: Size, name: str) -> None:
        """Raise ``ContextLengthError`` where a group doesn't fit even alone."""
        limits = self.limits
        for what, needed, room, option in (
            ("requests at once", size.requests, limits.max_requests, "max_num_seqs"),
            ("ids in one step", size.prompt_ids, limits.max_step_ids, "max_num_batched_tokens"),
            ("positions", size.positions, limits.max_positions, "kv_cache_memory_bytes or gpu_memory_utilization"),
        ):
            if needed > room:
                raise ContextLengthError(
                    f"{name} takes {needed} {what}, and the engine has room for {room}. Raise {option}, shorten the "
                    "prompt, or lower max_new_tokens."
                )

    def fits(self, size: Size, *, alone: bool = False) -> bool:
        """Return whether a group can start now; one that must run ``alone`` can where nothing runs."""
        if alone:
            return not self._running
        limits, running = self.limits, self._running.values()
        requests = sum(each.requests for each in running) + size.requests
        positions = sum(each.positions for each in running) + size.positions
        # Each request that runs already has an id in the step, too.
        ids = self._starting + size.prompt_ids + sum(each.requests for each in running)
        return requests <= limits.max_requests and positions <= limits.max_positions and ids <= limits.max_step_ids

    def start(self, group: object, size: Size) -> None:
        """Count a group that starts in the next step."""
        self._running[group] = size
        self._starting += size.prompt_ids

    def end(self, group: object) -> None:
        """Count a group no more."""
        self._running.pop(group, None)

    def stepped(self) -> None:
        """Say that a step has computed the prompts of what was started."""
        self._starting = 0
