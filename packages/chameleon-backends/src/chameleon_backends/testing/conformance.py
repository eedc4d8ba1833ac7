"""What every conformance suite shares: its standard tests can't be weakened without a stated reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

_REASON = "__deviates__"


def deviates(reason: str) -> Callable[[Test], Test]:
    """Mark a test that overrides a standard one, and say why::

        class TestAcme(AttentionBackendConformance):
            backend_name = "acme"

            @deviates("the kernel has no backward pass")
            def test_gradients_equal_those_of_float64_eager(self, backend): ...

    Raises ``ValueError`` where the reason is empty.
    """
    if not reason.strip():
        raise ValueError("deviates() needs a reason")

    def mark(test: Test) -> Test:
        setattr(test, _REASON, reason)
        return test

    return mark


class Conformance:
    """Base of the suites. A class that derives from it directly is a suite; those derived from a suite are its users.

    A user that overrides or deletes one of its suite's tests without ``deviates`` raises ``TypeError`` when it is
    defined, so that pytest can't collect it.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for suite in cls.__mro__[1:]:
            if Conformance not in suite.__bases__:
                continue
            for name, standard in vars(suite).items():
                if not name.startswith("test_"):
                    continue
                test = inspect.getattr_static(cls, name)
                if test is not standard and not getattr(test, _REASON, None):
                    raise TypeError(
                        f"{cls.__name__}.{name} replaces a standard test of {suite.__name__} without a reason: "
                        'mark it with @deviates("why")'
                    )
