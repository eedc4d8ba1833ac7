"""A row's machine in front of an engine, which takes what the engine's requests write."""

from __future__ import annotations

from dataclasses import dataclass

from chameleon_core.generation import RowMachine

from .errors import EngineError
from .row_parts import Signals


@dataclass(eq=False, slots=True)
class Following:
    """What of a row its request has written.

    The machine is ahead of it by the ids that must come, which it takes at once and the engine computes all the same.
    """

    machine: RowMachine
    signals: Signals
    written: int = 0
    """How many of the row's new ids the request has in its prompt or has written."""

    def start(self) -> None:
        """Say that a request begins after all new ids."""
        self.written = len(self.machine.new_ids)

    def take(self, token_id: int) -> list[int]:
        """Take an id that the request wrote, and return the row's new ids.

        Raises ``EngineError`` for one that the row can't have written.
        """
        machine = self.machine
        if token_id == self.signals.failed:
            raise EngineError(f"row {machine.row.index}: the engine ended a request; its log says why.")
        is_known = self.written < len(machine.new_ids)
        if is_known:
            problem = None if machine.new_ids[self.written] == token_id else "isn't the only one that may come"
        else:
            problem = machine.row.why_not_next(token_id)
        if problem is not None:
            raise EngineError(f"row {machine.row.index}: the engine wrote id {token_id}, which {problem}.")
        self.written += 1
        return [] if is_known else machine.accept(token_id)
