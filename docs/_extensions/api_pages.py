"""Write the pages of the API reference: one for each package, from its public names and their docstrings.

Public are the modules that have an ``__all__``, and the hook specifications and helpers for tests. The pages are
written before each build and aren't committed, so they can't fall behind the source.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

# Those that others import from come first: a name is described where it is defined.
PACKAGES = (
    "chameleon_backends",
    "chameleon_vq",
    "chameleon_text",
    "chameleon_core",
    "chameleon_emoji",
    "chameleon_vllm",
    "chameleon_serve",
)
# Modules that are public without an ``__all__``.
MORE = ("hookspecs", "testing")
GROUPS = ("Classes", "Functions", "Types and constants", "Errors and warnings")
DIRECTIVES = {"Classes": "autoclass", "Functions": "autofunction", "Errors and warnings": "autoexception"}


def public_modules(package: str, source: Path) -> list[str]:
    """Return the dotted names of a package's public modules, the package itself first, without importing any."""
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join((package, *parts)).removesuffix(".__init__")
        if any(part.startswith("_") for part in parts if part != "__init__") or "cli" in parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = {
            ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
        }
        if "__all__" in assigned or ".".join(parts) in MORE:
            found.append(name)
    return sorted(found, key=lambda name: (name.count(".") > 0, name))


def public_names(module: Any) -> list[str]:
    """Return the names that a module makes public: its ``__all__``, or what it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def group(value: Any) -> str:
    """Return the heading under which a name stands."""
    if inspect.isclass(value) and typing.get_origin(value) is None:
        return "Errors and warnings" if issubclass(value, Exception) else "Classes"
    return "Functions" if inspect.isroutine(value) else "Types and constants"


def options(value: Any) -> list[str]:
    """Return the options for a class: to show ``__call__``, and what it inherits from a base that has no place here."""
    if not inspect.isclass(value):
        return []
    lines = ["   :special-members: __call__"] if "__call__" in vars(value) else []
    bases = value.__mro__[1:]
    public = [base for base in bases if _is_public(base)]
    # What a public base inherits is shown with that one.
    inner = [base for base in bases if _is_inner(base) and not any(issubclass(other, base) for other in public)]
    if inner:
        shown = [base.__name__ for base in bases if base not in inner]
        lines.append(f"   :inherited-members: {', '.join(shown)}")
    return lines


def _is_inner(base: type) -> bool:
    """Return whether a class is of one of the packages, which don't make it public but in its own module."""
    return base.__module__.partition(".")[0] in PACKAGES and "._" not in base.__module__ and not _is_public(base)


def _is_public(base: type) -> bool:
    """Return whether one of the packages makes a class public."""
    package = base.__module__.partition(".")[0]
    return package in PACKAGES and base.__name__ in sys.modules[package].__all__


def constant(module: str, name: str, value: Any) -> list[str]:
    """Return the description of a constant or type, with the docstring below its definition, wherever that is."""
    lines = [f".. py:data:: {name}"]  # in the module that the page is at
    if isinstance(value, str | int | float):
        lines.append(f"   :value: {value!r}")
    while True:
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        documentation = analyzer.attr_docs.get(("", name))
        origin = imported_from(module, name)
        if documentation or origin is None:
            break
        module, name = origin
    return [*lines, "", *(f"   {line}" for line in documentation or ()), ""]


def imported_from(module: str, name: str) -> tuple[str, str] | None:
    """Return the module, of the same package, and the name from which a module imports a name."""
    loaded = importlib.import_module(module)
    for node in ast.walk(ast.parse(inspect.getsource(loaded))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    place = importlib.util.resolve_name("." * node.level + (node.module or ""), loaded.__package__)
                    return (place, alias.name) if place.startswith("chameleon_") else None
    return None


def page(package: str, source: Path, described: dict[int, str]) -> str:
    """Return the page of one package, in reStructuredText; ``described`` are the names described so far, by object."""
    lines = [package, "=" * len(package), ""]
    for name in public_modules(package, source):
        module = importlib.import_module(name)
        if name != package:
            lines += [name, "-" * len(name), ""]
        lines += [f".. automodule:: {name}", "   :no-members:", ""]
        values = {public: getattr(module, public) for public in public_names(module)}
        others = []
        for heading in GROUPS:
            members = []
            for public, value in values.items():
                if group(value) != heading:
                    continue
                if heading == "Types and constants":
                    members += constant(name, public, value)
                elif id(value) in described:  # once is enough, in the package that defines it
                    others.append(f":py:obj:`{described[id(value)]}`")
                else:
                    described[id(value)] = f"{name}.{public}"
                    members += [f".. {DIRECTIVES[heading]}:: {name}.{public}", *options(value), ""]
            if members:
                lines += [f".. rubric:: {heading}", "", *members]
        if others:
            lines += [f"Also here, and described at its own place: {', '.join(others)}.", ""]
    return "\n".join(lines)


def write_pages(app: Sphinx) -> None:
    """Write the pages that differ from what is there."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    described: dict[int, str] = {}
    for package in PACKAGES:
        source = Path(app.srcdir).parent / "packages" / package.replace("_", "-") / "src" / package
        path, text = folder / f"{package}.rst", page(package, source, described)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


class Named:
    """A default value that is shown by its name instead of its address."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def named(default: Any) -> Any:
    """Return a default value, or its name where it is a function or class."""
    is_name = inspect.isroutine(default) or (inspect.isclass(default) and default is not inspect.Parameter.empty)
    return Named(default.__name__) if is_name else default


def shorten_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Leave the types out of a constructor's signature where the class describes each field below it."""
    if what not in ("class", "exception"):
        return None
    if getattr(value, "_is_protocol", False):
        return "", None
    fields = getattr(value, "__annotations__", {})
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    if fields and any(each.name in fields for each in parameters):
        bare = [each.replace(annotation=inspect.Parameter.empty, default=named(each.default)) for each in parameters]
        return str(inspect.Signature(bare)), None
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", shorten_signature)
    return {"parallel_read_safe": True}
