"""The errors that only training raises, apart from the package's own so that both trainers name theirs alike.

``chameleon_core.training.errors`` is the same for the transformer.
"""

from __future__ import annotations

from ..errors import ChameleonVQError


class DivergenceError(ChameleonVQError, ArithmeticError):
    """The loss became NaN or infinite."""
