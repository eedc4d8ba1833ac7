"""The errors that only training raises, in a module of their own so that both trainers have them in the same place.

``chameleon_core.training.errors`` has those of the transformer's.
"""

from __future__ import annotations

from ..errors import ChameleonVQError


class DivergenceError(ChameleonVQError, ArithmeticError):
    """The loss became NaN or infinite."""
