# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Keep torch importable where the metadata of some installed distribution is damaged.

``import torch`` looks through all distributions for device backends, and fails where the entry points of any of them
can't be read. The packages that need torch import this module first, so that it turns that search off in this case.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings

GROUP = "torch.backends"
SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"
"""The environment variable that turns torch's search off."""


def keep_torch_importable() -> None:
    """Turn torch's search for device backends off, with a warning, if it would fail; do nothing once torch is there."""
    if "torch" in sys.modules or SWITCH in os.environ:
        return
    try:
        importlib.metadata.entry_points(group=GROUP)
    except Exception as error:
        os.environ[SWITCH] = "0"
        warnings.warn(
            "an installed distribution has damaged metadata (its entry_points.txt can't be read: "
            f"{type(error).__name__}: {error}), so torch is imported without device backends of other packages. "
            "Reinstall that distribution; `pip check` may name it.",
            RuntimeWarning,
            stacklevel=2,
        )


keep_torch_importable()
