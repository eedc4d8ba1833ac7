"""What is installed and not asked for stops nothing: plugins that panic, skip or print, and damaged metadata of any
distribution. All of it is installed together, and every registry is asked in a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 0.2\n"
GOOD = """
from chameleon_backends import HOOK_API_VERSION, AttentionBackendSpec, hookimpl

print("printed on import")


@hookimpl
def chameleon_attention_backends():
    print("printed in the hook")
    return [AttentionBackendSpec(name="{name}", factory="chameleon_backends.backends.eager:EagerAttention",
                                 api_version=HOOK_API_VERSION)]
"""

# Modules, and what is said of each.
BROKEN = {
    "panics": (
        "class PanicException(BaseException): pass\nraise PanicException('call failed')",
        "PanicException: call",
    ),
    "skips": ("import pytest\npytest.skip('no GPU', allow_module_level=True)", "Skipped: no GPU"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "unspeakable": (
        "class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd",
        "Odd: its message can't be shown: OSError",
    ),
}
# Metadata, each of a distribution with a usable plugin.
USABLE: dict[str, dict[str, bytes | None]] = {
    "latin": {"METADATA": METADATA.format(name="acme-latin").encode() + "Author: José\n".encode("latin-1")},
    "bare": {"METADATA": None},
    "nameless": {"METADATA": b"Metadata-Version: 2.1\n"},
    "beside": {"entry_points.txt": "[console_scripts]\ncafé\n[chameleon_backends]\n{line}\n".encode("latin-1")},
}
# Metadata of distributions without a plugin.
UNRELATED: dict[str, bytes] = {
    "aaa-1.0.dist-info/entry_points.txt": "[console_scripts]\ncafé = a\n".encode("latin-1"),
    "bbb-1.0.dist-info/entry_points.txt": b"[console_scripts]\nnonsense\n",
    "ccc-1.0.dist-info/entry_points.txt": b"= nothing\n[",
    "ddd-1.0.dist-info": b"a file",
    "eee-1.0.dist-info/entry_points.txt/inside": b"",
    "fff-1.0.dist-info/METADATA": b"\xff\xfe",
    "ggg.dist-info/entry_points.txt": b"\x00\x01[chameleon_backends",
    "hhh-1.0.egg-info/PKG-INFO": b"\xe9",
}

ASK = """
import importlib, json, warnings
warnings.simplefilter("ignore")
found = {}
for package in ("chameleon_backends", "chameleon_vq", "chameleon_text", "chameleon_core"):
    registry = importlib.import_module(f"{package}.registry").REGISTRY
    found[package] = [
        {each.spec.name: [each.distribution, each.version]
         for hook in registry.kinds for each in registry.registered(hook)},
        {bad.plugin: bad.reason for bad in registry.quarantined()},
    ]
print(json.dumps(found))
"""


def install(folder: Path) -> None:
    for path, content in UNRELATED.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    sources = {name: source for name, (source, _) in BROKEN.items()}
    sources |= {name: GOOD.format(name=f"acme-{name}") for name in USABLE}
    for name, source in sources.items():
        (folder / f"acme_{name}.py").write_text(source)
        info = folder / f"acme_{name}-0.2.dist-info"
        line = f"acme_{name} = acme_{name}"
        files: dict[str, bytes | None] = {
            "METADATA": METADATA.format(name=f"acme-{name}").encode(),
            "entry_points.txt": f"[chameleon_backends]\n{line}\n".encode(),
            **USABLE.get(name, {}),
        }
        info.mkdir()
        for file, content in files.items():
            if content is not None:
                (info / file).write_bytes(content.replace(b"{line}", line.encode()))
    lines = folder / "acme_lines-0.2.dist-info"
    lines.mkdir()
    (lines / "entry_points.txt").write_text("[chameleon_backends]\nno_equals_sign\nno_module = not a module\n")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each registry finds, and what it quarantines."""
    folder = tmp_path_factory.mktemp("damaged")
    install(folder)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("CHAMELEON_PLUGINS", None)
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Nothing else is on stdout: what the plugins print is on stderr.
    assert done.stderr.count("printed on import") == done.stderr.count("printed in the hook") == len(USABLE)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BROKEN)
def test_a_plugin_that_raises_anything_on_import_is_quarantined_with_the_reason(found: Any, name: str) -> None:
    assert BROKEN[name][1] in found["chameleon_backends"][1][f"acme_{name}"]


@pytest.mark.parametrize("name", USABLE)
def test_a_plugin_beside_damaged_metadata_is_used_and_named_by_what_is_whole(found: Any, name: str) -> None:
    distribution, version = found["chameleon_backends"][0][f"acme-{name}"]
    assert (distribution.replace("_", "-"), version) == (f"acme-{name}", "0.2")


@pytest.mark.parametrize("line", ["no_equals_sign", "no_module"])
def test_a_line_that_names_nothing_is_quarantined(found: Any, line: str) -> None:
    assert "it must have the form 'name = module'" in found["chameleon_backends"][1][line]


@pytest.mark.parametrize("package", ["chameleon_backends", "chameleon_vq", "chameleon_text", "chameleon_core"])
def test_every_registry_has_its_built_ins(found: Any, package: str) -> None:
    builtins = [name for name, (owner, _) in found[package][0].items() if owner == package.replace("_", "-")]
    assert builtins


def test_an_interruption_while_plugins_load_passes_and_the_next_look_up_finds_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chameleon_backends.registry import ATTENTION_BACKENDS_HOOK, REGISTRY

    info = tmp_path / "acme_stopped-0.2.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[chameleon_backends]\nacme_stopped = acme_stopped\n")
    module = tmp_path / "acme_stopped.py"
    module.write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CHAMELEON_PLUGINS", "acme-stopped")
    REGISTRY.reload()
    try:
        with pytest.raises(KeyboardInterrupt):
            REGISTRY.registered(ATTENTION_BACKENDS_HOOK)
        module.write_text(GOOD.format(name="acme-later"))
        names = [each.spec.name for each in REGISTRY.registered(ATTENTION_BACKENDS_HOOK)]
        assert names[0] == "eager"
        assert "acme-later" in names
    finally:
        monkeypatch.undo()
        REGISTRY.reload()
