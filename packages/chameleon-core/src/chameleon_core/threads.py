"""How many threads a command computes with on the CPU, and which of them come first.

The commands of this package own their process, so they choose; the library never changes what a program has set.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import torch

# With fewer bytes of weights a step's products are over before a second thread has begun its share. On a machine that
# others use, threads then wait for each other's turns at the processor: the demo took ten times as long with two.
SMALL_MODEL = 2**25

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables of the environment by which a user chooses."""

MORE_NICE = 5
"""How much nicer than its process a thread is that gives way."""


def default_threads(num_bytes: int, device: str = "cpu") -> int | None:
    """Return the number of threads that suits a model with weights of this size; None where torch's own number stays.

    It stays for a larger model, on another device, and where the environment names a number.
    """
    if num_bytes > SMALL_MODEL or torch.device(device).type != "cpu" or any(map(os.environ.get, VARIABLES)):
        return None
    return 1 if torch.get_num_threads() > 1 else None


@contextlib.contextmanager
def threads_set_to(number: int | None) -> Iterator[None]:
    """Compute with ``number`` threads (None: as many as before) for as long as the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def give_way() -> None:
    """Let what else computes come before this thread, on Linux, where threads have priorities of their own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + MORE_NICE, 19))
