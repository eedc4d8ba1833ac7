"""What the tests on a GPU share: the device, and the reason why they are skipped without one.

``CHAMELEON_TEST_DEVICE`` names another device: with ``cpu`` the tests themselves can be tried anywhere.
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("CHAMELEON_TEST_DEVICE", "cuda")


def why_skipped() -> str | None:
    """Return the reason why torch can't use the device here."""
    try:
        torch.empty(0, device=DEVICE)
    except (RuntimeError, AssertionError) as error:
        return f"torch can't use {DEVICE} here: {str(error).splitlines()[0]}"
    return None


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    """The device, without its faster and coarser float32 products."""
    if (reason := why_skipped()) is not None:
        pytest.skip(reason)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return DEVICE
