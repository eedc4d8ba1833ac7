"""The conformance suite for backends, and what it is made of; needs the extra ``[testing]``.

A backend's test module needs one class::

    class TestAcme(AttentionBackendConformance):
        backend_name = "acme"
"""

from __future__ import annotations

from ..errors import MissingPackageError

try:
    from .attention import AttentionBackendConformance
    from .conformance import Conformance, deviates
    from .strategies import AttentionProblem, attention_problems, attention_specs
    from .tolerances import TOLERANCES, assert_close
except ModuleNotFoundError as error:
    if error.name not in ("hypothesis", "pytest"):
        raise
    raise MissingPackageError(
        f"chameleon_backends.testing needs {error.name}: pip install './packages/chameleon-backends[testing]'"
    ) from error

__all__ = [
    "TOLERANCES",
    "AttentionBackendConformance",
    "AttentionProblem",
    "Conformance",
    "assert_close",
    "attention_problems",
    "attention_specs",
    "deviates",
]
