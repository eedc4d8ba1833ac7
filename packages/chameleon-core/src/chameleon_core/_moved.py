# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Old names of what moved, which work for one release with a ``DeprecationWarning`` that says the new one.

In a package's ``__init__.py``::

    moved_modules({"acme.old": "acme.new"})

    if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
        __getattr__ = moved_names(__name__, {"OldName": "acme.new:NewName"})
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def moved_modules(moved: Mapping[str, str]) -> None:
    """Let modules that moved be imported by their old dotted names, the keys. The values are the new ones.

    An old module forwards to the new one, so that what is imported from either is the same object.
    """
    if not any(isinstance(finder, _MovedModules) and finder.moved == moved for finder in sys.meta_path):
        # First, because a folder that was left behind, of bytecode for instance, would be found as a namespace package.
        sys.meta_path.insert(0, _MovedModules(moved))


def moved_names(module: str, moved: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module some of whose names moved.

    ``moved`` has where each is now: ``"acme.new:Name"``, or ``"acme.new"`` for a module.
    """

    def find(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now, _, attribute = moved[name].partition(":")
        _warn(f"{module}.{name}", f"{now}.{attribute}" if attribute else now, stacklevel=3)
        found = importlib.import_module(now)
        return getattr(found, attribute) if attribute else found

    return find


class _MovedModules:
    """The finder and loader of old module names, and of nothing else."""

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = dict(moved)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        # A package, since submodules of an old name may be old names, too.
        return ModuleSpec(name, self, is_package=True) if name in self.moved else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = self.moved[spec.name]
        _warn(spec.name, now, stacklevel=3)
        return _MovedModule(spec.name, importlib.import_module(now))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: every attribute is the new module's."""


class _MovedModule(ModuleType):
    """An old module: every attribute is the new module's."""

    def __init__(self, name: str, now: ModuleType) -> None:
        super().__init__(name, now.__doc__)
        self._now = now
        # What `from old import *` gives.
        self.__all__ = getattr(now, "__all__", [each for each in vars(now) if not each.startswith("_")])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)

    def __dir__(self) -> list[str]:
        return dir(self._now)


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is {new} now; the old name works until the next release.", DeprecationWarning, stacklevel=stacklevel
    )
