"""What the tests share."""

from __future__ import annotations

import signal

import torch
from hypothesis import settings

# The same examples in every run, whatever the machine's load.
settings.register_profile("chameleon", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("chameleon")

# Models this small lose time to more threads than one.
torch.set_num_threads(1)

# A process that was started in the background ignores SIGINT; tests of Ctrl-C send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
