"""The map leads somewhere: the files and tests that docs/architecture.md and the README name exist."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TESTS = sorted(set(re.findall(r"`([\w/.-]+\.py)::(\w+)`", PAGE)))
LAYERS = re.compile(r"^\| (?P<package>core|vq|text|backends) \| may import \|\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)


def source_folder(package: str) -> Path:
    return ROOT / "packages" / f"chameleon-{package}" / "src" / f"chameleon_{package}"


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[name for _, name in TESTS])
def test_an_invariant_is_held_by_a_test_that_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_invariant_has_a_test() -> None:
    section = PAGE.partition("## What always holds")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert not [row for row in rows if "::test_" not in row]


def layers(package: str) -> list[list[str]]:
    """Return the names of each row of a package's table, the highest first."""
    (table,) = (found for found in LAYERS.finditer(PAGE) if found["package"] == package)
    rows = table["rows"].splitlines()[1:]
    return [re.findall(r"`(\w+)`", row.split("|")[1].partition(":")[0]) for row in rows]


def top_modules(package: str) -> dict[str, list[Path]]:
    """Return the files of each module or subpackage that lies at the top of a package."""
    found: dict[str, list[Path]] = {}
    for path in source_folder(package).rglob("*.py"):
        top = path.relative_to(source_folder(package)).parts[0].removesuffix(".py")
        found.setdefault(top, []).append(path)
    return found


def imported(package: str, path: Path) -> set[str]:
    """Return the names at the top of its own package that a file imports from, typing and deferred imports too."""
    depth = len(path.relative_to(source_folder(package)).parts) - 1
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            found |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("package", ["core", "vq", "text", "backends"])
def test_a_module_imports_from_the_rows_below_its_own(package: str) -> None:
    rows = layers(package)
    modules = top_modules(package)
    unknown = {name for row in rows for name in row} - modules.keys()
    assert not unknown, "the page names modules that there aren't"
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    # What no row names is above all rows or below them.
    above = {"__init__", "__main__", "testing"}
    lowest = len(rows)
    for name in modules.keys() - above:
        for path in modules[name]:
            for other in imported(package, path) & modules.keys() - {name}:
                assert other not in above, f"{path} imports {other}"
                own, theirs = row_of.get(name, lowest), row_of.get(other, lowest)
                told = "" if name in row_of else f": give {name} a row in docs/architecture.md"
                assert own < theirs or own == theirs == lowest, f"{path.relative_to(ROOT)} imports {other}{told}"


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\((\.\./[^)#]+)\)", PAGE)
    assert len(links) > 15
    assert not [link for link in links if not (ROOT / "docs" / link).is_file()]


def test_the_readme_names_every_folder() -> None:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("which folders belong to the repository is known to git, and this is no checkout")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("## Where things are")[2].partition("```\n\n")[0]
    named = {match[1] for match in re.finditer(r"^(\w[\w.-]*)/ ", tree, re.MULTILINE)}
    folders = {line.partition("/")[0] for line in done.stdout.splitlines() if "/" in line}
    assert named == {folder for folder in folders if not folder.startswith(".")}
    packages = {match[1] for match in re.finditer(r"^  ([\w-]+)/ ", tree, re.MULTILINE)}
    assert packages == {path.name for path in (ROOT / "packages").iterdir() if (path / "pyproject.toml").exists()}
