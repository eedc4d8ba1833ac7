"""Memory that the benchmarks share: what a process takes, and what a model stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from chameleon_backends import QuantizedLinear


def anonymous_memory() -> int:
    """Return the bytes of this process's memory that no file backs, as Linux counts them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@contextmanager
def watching_memory(interval: float = 0.001) -> Iterator[Sequence[int]]:
    """Yield a list of one number, the most bytes by which anonymous memory has risen so far, read every ``interval`` s.

    The number is up to date once the context is left.
    """
    before, ended, rise = anonymous_memory(), threading.Event(), [0]

    def look() -> None:
        rise[0] = max(rise[0], anonymous_memory() - before)

    def watch() -> None:
        while not ended.wait(interval):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield rise
    finally:
        ended.set()
        watcher.join()
        look()


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights, quantized ones as they are stored."""
    quantized = (module for module in model.modules() if isinstance(module, QuantizedLinear))
    stored = sum(tensor.nbytes for layer in quantized for tensor in layer.stored().values())
    return stored + sum(parameter.nbytes for parameter in model.parameters())
