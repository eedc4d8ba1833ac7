"""Objects whose attributes can't be assigned, so that nothing is accepted and then ignored."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

from .errors import ReadOnlyError


class Sealed:
    """An object that refuses assignments once ``_seal`` was called.

    What the class itself defines may still be assigned: properties with a setter, and methods. So may names that begin
    with an underscore, for subclasses.
    """

    _elsewhere: ClassVar[Mapping[str, str]] = {}
    """For names that people try to assign, what to do instead."""
    _instead: ClassVar[Mapping[str, str]] = {}
    """For names that ``transformers`` has and this class doesn't, what to use, a clause."""

    def __getattr__(self, name: str) -> Any:
        # Called only for what isn't there.
        own = type(self).__name__
        if name in self._instead:
            raise AttributeError(f"a {own} has no {name!r}: {self._instead[name]}.")
        raise AttributeError(f"{own!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        sealed = self.__dict__.get("_sealed")
        # A subclass may have attributes of its own, which it sets after its base is made.
        refused = sealed is not None and (type(self) is sealed or name in self._elsewhere or name in self.__dict__)
        own = getattr(type(self), name, None)
        if isinstance(own, property) and own.fset is None:
            raise ReadOnlyError(f"{name} of a {type(self).__name__} follows from the others, and can't be assigned.")
        if refused and not name.startswith("_") and own is None and not hasattr(type(self), name):
            raise ReadOnlyError(self._refusal(name))
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if "_sealed" in self.__dict__ and not name.startswith("_"):
            raise ReadOnlyError(f"{name} of a {type(self).__name__} can't be deleted.")
        super().__delattr__(name)

    def _seal(self, kind: type) -> None:
        self.__dict__["_sealed"] = kind

    def _refusal(self, name: str) -> str:
        own = type(self).__name__
        if name in self._elsewhere:
            return f"{name} can't be assigned to a {own}: {self._elsewhere[name]}"
        if name in self.__dict__:
            return f"{name} of a {own} can't change once it is made. Make another one with the new value."
        known: list[Any] = [each for each in (*self.__dict__, *dir(type(self))) if not each.startswith("_")]
        if name in self._instead:
            return f"a {own} has no {name!r}: {self._instead[name]}."
        close = difflib.get_close_matches(name, known, n=1)
        return f"a {own} has no attribute {name!r}, so that assigning it would do nothing." + (
            f" Did you mean {close[0]!r}?" if close else ""
        )
