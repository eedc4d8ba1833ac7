"""docs/plugin-hooks.md has every hook of every package: its signature, and an example that works once installed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core")
SECTION = re.compile(r"^## (?P<title>.*)\n(?P<text>(?:(?!^## ).*\n)*)", re.MULTILINE)
# A block whose fence says `installed` is run where the example before it is installed as a plugin.
BLOCK = re.compile(r"^```python(?P<installed> installed)?\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


class Hook(NamedTuple):
    """A hook and the package that owns it."""

    package: str
    name: str

    @property
    def registry(self) -> Any:
        return importlib.import_module(f"{self.package}.registry").REGISTRY

    @property
    def signature(self) -> str:
        """The signature as in the source, without the docstring."""
        source = inspect.getsource(getattr(importlib.import_module(f"{self.package}.hookspecs"), self.name))
        (function,) = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef)
        assert function.returns is not None
        return f"def {self.name}({ast.unparse(function.args)}) -> {ast.unparse(function.returns)}: ...\n"


def hooks() -> list[Hook]:
    return [
        Hook(package, name)
        for package in PACKAGES
        for name in importlib.import_module(f"{package}.registry").REGISTRY.kinds
    ]


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "plugin-hooks.md").read_text(encoding="utf-8")
    return {section["title"]: section["text"] for section in SECTION.finditer(text)}


def blocks(hook: Hook, *, installed: bool = False) -> list[str]:
    found = BLOCK.finditer(sections()[hook.name])
    return [block["code"] for block in found if (block["installed"] is not None) == installed]


each_hook = pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook.name)


def test_every_hook_and_nothing_else_has_a_section() -> None:
    documented = [title for title in sections() if title.startswith("chameleon_")]
    assert documented == [hook.name for hook in hooks()]


def test_every_name_that_is_mentioned_exists() -> None:
    text = (ROOT / "docs" / "plugin-hooks.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(chameleon_\w+(?:\.\w+)*)\.(\w+)`", text))
    assert len(names) > 10
    for module, name in names:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@each_hook
def test_a_hook_is_documented_with_its_exact_signature(hook: Hook) -> None:
    assert blocks(hook)[0] == hook.signature


@each_hook
def test_a_hook_is_implemented_by_a_plugin_in_its_package_s_own_tests(hook: Hook) -> None:
    tests = ROOT / "packages" / hook.package.replace("_", "-") / "tests"
    plugin = re.compile(rf"def {hook.name}\(|\b{hook.name}=")
    assert any(plugin.search(path.read_text(encoding="utf-8")) for path in tests.glob("test_*.py"))


@pytest.fixture
def example(hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The hook's example, installed; its module's name."""
    _, source = blocks(hook)
    comment = re.match(r"# (\w+)\.py\n", source)
    assert comment, "the example begins with the name of its file"
    module = comment[1]
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    metadata = tmp_path / f"{module}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[{hook.package}]\n{module} = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAMELEON_PLUGINS", module)
    hook.registry.reload()
    yield module
    monkeypatch.undo()
    sys.modules.pop(module, None)
    hook.registry.reload()


@each_hook
def test_a_hook_s_example_works_once_it_is_installed(hook: Hook, example: str) -> None:
    (found,) = (each for each in hook.registry.registered(hook.name) if each.distribution == example)
    assert found.spec.summary
    assert found.why_unavailable() is None
    uses = blocks(hook, installed=True)
    assert uses, "the example isn't used"
    for code in uses:
        assert found.spec.name in code, "the example isn't asked for by its name"
        exec(compile(code, f"docs/plugin-hooks.md, {hook.name}", "exec"), {})
