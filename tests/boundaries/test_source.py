"""Boundaries that the source keeps: who imports whom, what is declared, and which modules are copies."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("vq", "text", "backends", "core", "vllm", "serve")
PACKAGES = {f"chameleon_{name}": ROOT / "packages" / f"chameleon-{name}" for name in NAMES}
# Distributions whose module has another name.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


def sources(package: str) -> list[Path]:
    found = sorted((PACKAGES[package] / "src" / package).rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The absolute imports of a file by their first part, and whether importing the file runs them."""

    def walk(node: ast.AST, runs: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name.partition(".")[0], runs) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
                yield child.module.partition(".")[0], runs
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                yield from walk(child, False)
            else:
                deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, runs and not deferred)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_what_it_is_compared_with(package: str) -> None:
    for path in sources(package):
        assert not {name for name, _ in imports(path)} & {"transformers", "diffusers"}, path


@pytest.mark.parametrize("package", ["chameleon_vq", "chameleon_text", "chameleon_backends"])
def test_a_leaf_imports_no_sibling(package: str) -> None:
    for path in sources(package):
        assert not {name for name, _ in imports(path)} & (PACKAGES.keys() - {package}), path


def at_import(path: Path) -> set[str]:
    """What a file needs to be imported."""
    return {name for name, runs in imports(path) if runs}


def needed(package: str) -> list[Path]:
    """A package's files but for core's demonstration, which shows all packages at work, for its own command only."""
    return [path for path in sources(package) if "demo" not in path.relative_to(PACKAGES[package]).parts]


def test_core_imports_only_backends_unless_asked() -> None:
    for path in needed("chameleon_core"):
        assert not at_import(path) & {"chameleon_vq", "chameleon_text"}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_it_declares(package: str) -> None:
    project = tomllib.loads((PACKAGES[package] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = [re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in requirements]
    declared = {MODULES.get(name, name.replace("-", "_")) for name in names} | {package} | sys.stdlib_module_names
    for path in needed(package):
        assert at_import(path) <= declared, path


def vendored() -> dict[str, list[str]]:
    """By the name of a module that several packages have: the package with the source, and those with a copy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        name: [f"chameleon_{package}" for package in packages]
        for name, packages in project["tool"]["chameleon"]["vendored"].items()
    }


@pytest.mark.parametrize("name", vendored())
def test_the_copies_of_a_vendored_module_are_equal(name: str) -> None:
    """Each package installs alone, so these few modules are in several; ``nox -s vendor`` copies them."""
    source, *others = (PACKAGES[package] / "src" / package / name for package in vendored()[name])
    assert others
    for copy in others:
        assert copy.read_text(encoding="utf-8") == source.read_text(encoding="utf-8"), f"{copy}: run nox -s vendor"


@pytest.mark.parametrize("name", vendored())
def test_a_vendored_module_says_where_its_source_is(name: str) -> None:
    source = vendored()[name][0]
    text = (PACKAGES[source] / "src" / source / name).read_text(encoding="utf-8")
    head = (
        f"# Vendored. Source: packages/{source.replace('_', '-')}. `nox -s vendor` copies it, "
        "tests/boundaries/test_source.py compares.\n"
    )
    assert text.startswith(head)


def test_every_module_that_several_packages_have_is_listed() -> None:
    texts = [(path.read_text(encoding="utf-8"), path) for package in PACKAGES for path in sources(package)]
    count = Counter(text for text, _ in texts)
    listed = {PACKAGES[package] / "src" / package / name for name in vendored() for package in vendored()[name]}
    assert {path for text, path in texts if count[text] > 1} == listed


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_licensed(package: str) -> None:
    assert (PACKAGES[package] / "src" / package / "py.typed").is_file()
    assert (PACKAGES[package] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_embedded_model_needs_nothing_but_for_its_two_plugins() -> None:
    """Whoever asks for the model has the package whose hook it is."""
    folder = ROOT / "packages" / "chameleon-emoji" / "src" / "chameleon_emoji"
    hooks = {"image_tokenizer.py": {"chameleon_vq"}, "model.py": {"chameleon_backends", "chameleon_core"}}
    assert hooks.keys() < {path.name for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        assert at_import(path) - sys.stdlib_module_names == hooks.get(path.name, set()), path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_looked_for_by_methods_that_raise(package: str) -> None:
    # Those of pathlib raise for names that are too long and for folders without permission; os.path answers no.
    found = [
        f"{path.name}:{number}"
        for path in sources(package)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\.(exists|is_file|is_dir)\(\)", line)
    ]
    assert not found, "use os.path.exists, isfile or isdir"
