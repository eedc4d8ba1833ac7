# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The base of the conformance suites: a standard test is left out with a stated reason, or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest


class Conformance:
    """The base of the suites. A class that derives from it directly is a suite; classes derived from a suite use it.

    A class that uses a suite names a test that doesn't apply in ``not_applicable``, and it is skipped with the reason::

        class TestAcme(AcmeConformance):
            not_applicable = {"test_gradients_are_those_of_float64": "the kernel has no backward pass"}

    A class that replaces or deletes a standard test, or leaves one out without a reason, raises ``TypeError`` when it
    is defined, so that pytest can't collect it. It may add tests of its own.
    """

    not_applicable: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suites = [base for base in cls.__mro__[1:] if Conformance in base.__bases__]
        if not suites:
            return
        standard = {name: test for suite in suites for name, test in vars(suite).items() if name.startswith("test_")}
        replaced = [name for name, test in standard.items() if inspect.getattr_static(cls, name) is not test]
        unknown = [name for name in cls.not_applicable if name not in standard]
        unexplained = [name for name, reason in cls.not_applicable.items() if not str(reason or "").strip()]
        for names, what in (
            (replaced, "replaces"),
            (unknown, "leaves out what isn't a standard test:"),
            (unexplained, "gives no reason to leave out"),
        ):
            if names:
                raise TypeError(
                    f"{cls.__name__} {what} {', '.join(sorted(names))}. A standard test of {suites[0].__name__} is "
                    "left out by naming it in not_applicable with the reason."
                )

    @pytest.fixture(autouse=True)
    def _leave_out(self, request: pytest.FixtureRequest) -> None:
        reason = self.not_applicable.get(request.node.originalname)
        if reason is not None:
            pytest.skip(reason)
