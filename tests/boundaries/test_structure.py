"""The plan of each package: imports without circles, from upper layers to lower ones, in files of a readable size."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("vq", "text", "backends", "core", "emoji", "vllm", "serve")
LONGEST, SHORTEST = 400, 25


def source_folder(package: str) -> Path:
    return ROOT / "packages" / f"chameleon-{package}" / "src" / f"chameleon_{package}"


@cache
def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name, ``chameleon_vq`` for the package's own ``__init__.py``."""
    folder = source_folder(package)
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of its own package that a module names in an import, wherever in the file it stands.

    ``from .a import b`` is an import of ``a.b`` where that is a module, else of ``a``. The ``__init__.py`` of the
    packages on the way, which Python runs as well, don't count: the one at the top re-exports everything.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                target = inner if inner in known else source
                if target in known and target != name:
                    yield target


@cache
def graph(package: str) -> dict[str, set[str]]:
    known = modules(package)
    return {name: set(imported(name, path, known)) for name, path in known.items()}


def find_circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle in the order of their imports, or none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        circle = next(filter(None, map(visit, sorted(edges[name]))), [])
        path.pop()
        done.add(name)
        return circle

    return next(filter(None, map(visit, sorted(edges))), [])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_has_a_circle_of_imports(package: str) -> None:
    """Imports for typing and those inside functions count: they are read as often as the others."""
    assert find_circle(graph(package)) == []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_read_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from . import a\n"
        "from .b import name\n"
        "from ..upper import c\n"
        "if TYPE_CHECKING:\n    from .d import D\n"
        "def late():\n    from .e import E\n"
        "import os\n"
    )
    known = dict.fromkeys(["p.q.a", "p.q.b", "p.upper", "p.upper.c", "p.q.d", "p.q.e", "p.q", "p"], file)
    assert set(imported("p.q.module", file, known)) == {"p.q.a", "p.q.b", "p.upper.c", "p.q.d", "p.q.e"}


@pytest.mark.parametrize("package", PACKAGES)
def test_source_files_have_a_readable_size(package: str) -> None:
    """A file that is shorter than that says in its docstring why it stands alone, with "because" or "so that"."""
    for path in modules(package).values():
        text = path.read_text(encoding="utf-8")
        count = len(text.splitlines())
        assert count <= LONGEST, f"{path.relative_to(ROOT)} has {count} lines; it may be two files"
        if count < SHORTEST and path.name not in ("__init__.py", "__main__.py"):
            docstring = ast.get_docstring(ast.parse(text)) or ""
            assert "because" in docstring or "so that" in docstring, (
                f"{path.relative_to(ROOT)} has {count} lines; say why it stands alone, or merge it"
            )
