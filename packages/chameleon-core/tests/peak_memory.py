"""What the programs that measure memory import: they run in processes of their own, with this folder on their path."""

from __future__ import annotations

import threading
import time


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


class Peak(threading.Thread):
    """Watches anonymous memory while a block runs; ``growth`` is the most that it rose above its beginning, bytes."""

    def __enter__(self) -> Peak:
        self.start_value = self.value = anonymous()
        self.running = True
        self.start()
        return self

    def run(self) -> None:
        """Look every half millisecond."""
        while self.running:
            self.value = max(self.value, anonymous())
            time.sleep(0.0005)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.join()
        self.value = max(self.value, anonymous())

    @property
    def growth(self) -> int:
        """How many bytes."""
        return self.value - self.start_value
