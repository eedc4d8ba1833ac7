"""Rules that the plugins of every package keep."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core")

pytestmark = pytest.mark.parametrize("package", PACKAGES)


@pytest.fixture
def registry(package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package's registry with the built-ins alone, whatever else is installed here."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")
    registry = importlib.import_module(f"{package}.registry").REGISTRY
    registry.reload()
    yield registry
    registry.reload()


def test_every_hook_has_a_kind_and_every_kind_a_hook(package: str, registry: Any) -> None:
    hookspecs = importlib.import_module(f"{package}.hookspecs")
    # The attribute that pluggy's marker sets on a function.
    hooks = {name for name, each in vars(hookspecs).items() if hasattr(each, f"{package}_spec")}
    assert hooks == registry.kinds.keys()
    assert registry.project == package
    assert registry.distribution == package.replace("_", "-")


def test_every_hook_is_documented_where_it_is_specified(package: str, registry: Any) -> None:
    hookspecs = importlib.import_module(f"{package}.hookspecs")
    for hook in registry.kinds:
        assert inspect.getdoc(getattr(hookspecs, hook)), hook


def test_the_builtins_are_usable_and_described(package: str, registry: Any) -> None:
    assert registry.quarantined() == ()
    for hook in registry.kinds:
        for registered in registry.registered(hook):
            assert registered.distribution == registry.distribution
            assert registered.spec.summary, f"{registered.spec.name} has no summary for the listing"
            # What this machine lacks is said in a sentence, and no check fails.
            reason = registered.why_unavailable()
            assert reason is None or (" " in reason and "its own check failed" not in reason)


def test_an_unknown_name_says_what_is_installed(package: str, registry: Any) -> None:
    error = importlib.import_module(f"{package}.errors").UnknownPluginError
    for hook, kind in registry.kinds.items():
        with pytest.raises(error, match=f"no {kind} named 'nonesuch'. Installed: "):
            registry.get(hook, "nonesuch")


def test_a_plugin_that_raises_on_import_stops_nothing(package: str, tmp_path: Path) -> None:
    (tmp_path / "acme_bad.py").write_text("raise RuntimeError('no driver')\n")
    metadata = tmp_path / "acme_bad-0.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bad\nVersion: 0.2\n")
    (metadata / "entry_points.txt").write_text(f"[{package}]\nacme = acme_bad\n")
    code = f"""
    from {package}.registry import REGISTRY
    for hook in REGISTRY.kinds:
        for registered in REGISTRY.registered(hook):
            assert REGISTRY.get(hook, registered.spec.name) is registered.spec
    print(*(bad.reason for bad in REGISTRY.quarantined() if bad.plugin == "acme"))
    """
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "CHAMELEON_PLUGINS": "acme"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "RuntimeError: no driver"
    warned = "PluginWarning: plugin 'acme' of acme-bad 0.2 is not used: RuntimeError: no driver"
    assert done.stderr.count(warned) == 1
