"""Read what comes next in threads while the caller computes: in order, and a bounded number ahead.

Pillow decodes and resizes without Python's lock, so that threads read at the same time as PyTorch computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 2
"""Threads that read: more would take processors from the computation, which is what takes most of the time."""


def read_ahead(read: Callable[[T], R], sources: Iterable[T], *, ahead: int) -> Iterator[tuple[T, Callable[[], R]]]:
    """Yield each source with a function that returns what ``read`` returned of it, or raises what ``read`` raised.

    At most ``ahead`` sources beyond the one that was yielded last are read or being read. ``sources`` is iterated in
    the caller's thread. Whoever stops early, by an interruption too, waits for nothing: what wasn't begun isn't read.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(min(THREADS, ahead), thread_name_prefix="chameleon-vq-read")
    try:
        for source in sources:
            waiting.append((source, pool.submit(read, source)))
            if len(waiting) > ahead:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _next(waiting: deque[tuple[T, Future[R]]]) -> tuple[T, Callable[[], R]]:
    source, future = waiting.popleft()
    return source, future.result
