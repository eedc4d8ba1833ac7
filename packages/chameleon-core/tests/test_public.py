"""The public names: each is there, documented, and loaded only when one of them is used."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import chameleon_core


def loaded(code: str) -> list[str]:
    """Which heavy modules a fresh Python has loaded after some code."""
    heavy = ("torch", "numpy", "chameleon_backends", "chameleon_core.model")
    code = f"{code}\nimport sys\nprint(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_the_package_loads_nothing_before_a_public_name_is_used() -> None:
    assert loaded("import chameleon_core") == []
    assert "torch" in loaded("from chameleon_core import ChameleonConfig")


@pytest.mark.parametrize(
    "command", ["", "generate", "tokenize", "tokenize-dataset", "plugins", "doctor", "plan", "demo"]
)
def test_help_is_quick_because_it_loads_no_torch(command: str) -> None:
    code = f"""
import sys
from chameleon_core.cli import main
sys.argv = ["chameleon", *{command.split()}, "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    assert loaded(code) == []


def test_a_module_can_be_the_first_that_is_imported() -> None:
    assert "chameleon_core.model" in loaded("import chameleon_core.registry; from chameleon_core import *")


def test_every_public_function_raises_errors_of_this_package() -> None:
    public = {name: getattr(chameleon_core, name) for name in chameleon_core.__all__}
    unwrapped = {name for name, each in public.items() if inspect.isfunction(each) and not hasattr(each, "__wrapped__")}
    assert unwrapped == set()


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse(inspect.getsource(chameleon_core))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name: "." * node.level + (node.module or "")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    aliases = {"ChameleonImageProcessorFast"}  # which no editor needs to offer
    handed_on = {name: imported.pop(name) for name in chameleon_core._OPTIONAL.keys() - aliases}
    assert handed_on == {name: chameleon_core._OPTIONAL[name] for name in handed_on}
    assert imported == chameleon_core._MODULES
    assert sorted([*imported, "__version__"]) == sorted(chameleon_core.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    for name in chameleon_core.__all__:
        public = getattr(chameleon_core, name)
        assert not (inspect.isclass(public) or inspect.isroutine(public)) or public.__doc__, name
    assert set(chameleon_core.__all__) <= set(dir(chameleon_core))


def test_help_begins_with_what_people_come_for() -> None:
    first, what, *rest = (chameleon_core.__doc__ or "").split("\n\n")
    assert "text and pictures" in first
    assert what == "What people come for:"
    assert rest[0].count("- **") == 5


def test_the_version_is_the_distribution_s() -> None:
    assert chameleon_core.__version__ == importlib.metadata.version("chameleon-core")


def test_another_name_is_an_error_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'chameleon_core' has no attribute 'Chamaeleon'"):
        _ = chameleon_core.Chamaeleon


@pytest.mark.parametrize("name", sorted(chameleon_core._OPTIONAL))
def test_without_its_package_a_name_is_an_error_with_the_install_line(name: str) -> None:
    package = chameleon_core._OPTIONAL[name]
    code = f"""
import sys, warnings
sys.modules[{package!r}] = None
import chameleon_core
try:
    from chameleon_core import {name}
except ImportError as error:
    said = str(error)
assert "pip install ./packages/{package.replace("_", "-")}" in said, said
assert not [name for name in chameleon_core.__all__ if name in chameleon_core._OPTIONAL]
"""
    loaded(code)
