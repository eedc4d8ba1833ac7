"""The error of this package, apart because it needs nothing else. All others are those of chameleon_core."""

from __future__ import annotations

from chameleon_core import ChameleonCoreError


class EngineError(ChameleonCoreError, RuntimeError):
    """vLLM's engine didn't do what was asked of it."""
