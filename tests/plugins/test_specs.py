"""A hook knows a spec by its fields: one made with any package's class, or with none of them, is accepted by all."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core")
# What a hook's specs have beyond the fields of PluginSpec.
EXTRA = {
    "chameleon_text_segment_codecs": {"segment": "chameleon_text:Text"},
    "chameleon_core_checkpoint_formats": {"matches": "pathlib:Path.exists", "marks": "acme.json"},
}
HOOKS = [
    (package, hook) for package in PACKAGES for hook in importlib.import_module(f"{package}.registry").REGISTRY.kinds
]


@dataclasses.dataclass
class OwnSpec:
    """A class of the plugin's own, with the fields that have no default."""

    name: str
    factory: Any
    api_version: int
    segment: Any = None
    matches: Any = None
    marks: str = ""


def registry_of(package: str) -> Any:
    return importlib.import_module(f"{package}.registry").REGISTRY


Install = Callable[..., Any]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(package, hook, spec)`` installs a plugin whose hook returns the spec; returns the registry."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "acme_specs")
    monkeypatch.syspath_prepend(tmp_path)
    used: list[str] = []

    def install(package: str, hook: str, spec: object) -> Any:
        module = type(sys)("acme_specs")

        def implementation() -> list[object]:
            return [spec]

        implementation.__name__ = hook
        setattr(module, hook, importlib.import_module(f"{package}.hookspecs").hookimpl(implementation))
        monkeypatch.setitem(sys.modules, "acme_specs", module)
        metadata = tmp_path / "acme_specs-0.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_specs\nVersion: 0.1\n")
        (metadata / "entry_points.txt").write_text(f"[{package}]\nacme_specs = acme_specs\n")
        used.append(package)
        registry_of(package).reload()
        return registry_of(package)

    yield install
    monkeypatch.undo()
    for package in used:
        registry_of(package).reload()


def extra(hook: str) -> dict[str, Any]:
    """The fields that a hook's spec has beyond those of ``PluginSpec``."""
    found = dict(EXTRA.get(hook, {}))
    if "segment" in found:
        found["segment"] = importlib.import_module("chameleon_text").Text
    return found


@pytest.mark.parametrize("maker", ["chameleon_vq", "chameleon_text", "chameleon_backends", "none"])
@pytest.mark.parametrize(("package", "hook"), HOOKS)
def test_every_hook_accepts_a_spec_of_every_package_and_of_none(
    install: Install, package: str, hook: str, maker: str
) -> None:
    fields = {"name": "acme", "factory": "acme_heavy:make", "api_version": 2}
    if maker == "none" or extra(hook):
        # PluginSpec has no room for the fields that some hooks need beside its own.
        spec: object = OwnSpec(**fields, **extra(hook))
    else:
        spec = importlib.import_module(maker).PluginSpec(**fields)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = install(package, hook, spec).get(hook, "acme")
    wanted = registry_of(package)._spec_type(hook)
    assert type(found) is wanted
    assert (found.name, found.api_version, found.why_unavailable(), found.summary) == ("acme", 2, None, "")
    assert found.why_unsupported(object()) is None
    message = r"'acme' of acme_specs 0\.1 can't be used: its factory 'acme_heavy:make' can't be imported"
    with pytest.raises(ImportError, match=message):
        found.make()


@pytest.mark.parametrize("hook", EXTRA)
def test_a_spec_without_what_a_hook_needs_is_quarantined_with_the_field_s_name(install: Install, hook: str) -> None:
    package = next(package for package, name in HOOKS if name == hook)
    spec = importlib.import_module("chameleon_backends").PluginSpec(name="acme", factory=object, api_version=2)
    first = next(iter(EXTRA[hook]))
    with pytest.warns(UserWarning, match=f"returned the spec 'acme' without {first}; .* requires name, .*{first}"):
        assert "acme" not in [each.spec.name for each in install(package, hook, spec).registered(hook)]


@pytest.mark.parametrize(("package", "hook"), HOOKS)
def test_every_hook_says_what_a_plugin_of_version_1_has_to_change(install: Install, package: str, hook: str) -> None:
    spec = OwnSpec(name="acme", factory=object, api_version=1, **extra(hook))
    registry = install(package, hook, spec)
    message = (
        rf"'acme' was written for version 1 of the {package} hooks; this is version 2\. .* unavailable\(\) .*"
        r"unsupported\(None\) .* Move that answer to unavailable, and state api_version 2\."
    )
    with pytest.warns(UserWarning, match=message):
        assert registry.quarantined()
    with pytest.raises(ImportError, match=message):
        registry.get(hook, "acme")
