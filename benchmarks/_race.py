"""Timing that the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def race(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the best milliseconds of each call; they take turns, so that other load affects all alike."""
    best = dict.fromkeys(calls, float("inf"))
    with torch.inference_mode():
        for call in calls.values():
            call()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for who, call in calls.items():
                start = time.perf_counter()
                call()
                best[who] = min(best[who], 1000 * (time.perf_counter() - start))
    return best
