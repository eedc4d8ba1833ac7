"""The conformance suites for attention backends and weight quantizers, and the strategies that they draw from.

Needs the extra ``[testing]``. The test module of a plugin is one class::

    class TestAcme(AttentionBackendConformance):
        backend_name = "acme"

    class TestAcme(WeightQuantizerConformance):
        quantizer_name = "acme"
        relative_error = 0.01
"""

from __future__ import annotations

from ..errors import MissingPackageError

try:
    from .attention import AttentionBackendConformance
    from .linear_problems import LinearProblem, linear_problems
    from .strategies import AttentionProblem, attention_problems, attention_specs
    from .tolerances import TOLERANCES, assert_close
    from .weight_quantizers import WeightQuantizerConformance
except ModuleNotFoundError as error:
    if error.name not in ("hypothesis", "pytest", "safetensors"):
        raise
    raise MissingPackageError(
        f"chameleon_backends.testing needs {error.name}: pip install './packages/chameleon-backends[testing]'."
    ) from error

__all__ = [
    "TOLERANCES",
    "AttentionBackendConformance",
    "AttentionProblem",
    "LinearProblem",
    "WeightQuantizerConformance",
    "assert_close",
    "attention_problems",
    "attention_specs",
    "linear_problems",
]
