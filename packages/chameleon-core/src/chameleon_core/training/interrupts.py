# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Ctrl-C and SIGTERM during training: they wait for the end of a step, so that the run is saved before it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupts:
    """Whether the process was asked to stop since ``waiting_interrupts`` began."""

    def __init__(self) -> None:
        self.received: int | None = None

    def end(self) -> NoReturn:
        """Raise what the signal would have raised: ``KeyboardInterrupt``, or ``SystemExit`` for SIGTERM."""
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second one ends the process at once."""
        if self.received is not None:
            self.end()
        self.received = number


@contextlib.contextmanager
def waiting_interrupts() -> Iterator[Interrupts]:
    """Let SIGINT and SIGTERM wait; what is yielded says whether one came.

    A second one raises at once. Handlers of the caller's own stay, and outside of the main thread nothing is changed.
    A signal that nobody has asked for is raised at the end of the block.
    """
    interrupts = Interrupts()
    before = {}
    if threading.current_thread() is threading.main_thread():
        defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        before = {number: default for number, default in defaults.items() if signal.getsignal(number) == default}
    for number in before:
        signal.signal(number, interrupts.handle)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupts.received is not None:
        interrupts.end()
