"""Broken plugins for every package together: each is quarantined with its reason, and every command works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import PIL.Image
import pytest

from chameleon_core.demo import make_chameleon

GOOD = """
from {package} import HOOK_API_VERSION, {spec}, hookimpl


@hookimpl
def {hook}():
    return [{spec}(name="acme-new", factory=dict, api_version=HOOK_API_VERSION{fields})]
"""


class Hook(NamedTuple):
    """A hook of a package, the fields that it requires, and a built-in name there."""

    name: str
    spec: str
    taken: str
    fields: str = ""


HOOKS = {
    "chameleon_vq": Hook("chameleon_vq_quantizers", "PluginSpec", "codebook"),
    "chameleon_text": Hook("chameleon_text_templates", "PluginSpec", "chat"),
    "chameleon_backends": Hook("chameleon_attention_backends", "AttentionBackendSpec", "sdpa"),
    "chameleon_core": Hook(
        "chameleon_core_checkpoint_formats", "CheckpointFormatSpec", "hf", ", matches=lambda folder: False, marks='x'"
    ),
}


def variants(package: str) -> dict[str, tuple[str, str]]:
    """What can be wrong with a plugin of a package: its source, and the reason that is given."""
    hook = HOOKS[package]
    good = GOOD.format(package=package, hook=hook.name, spec=hook.spec, fields=hook.fields)
    return {
        "raises": ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        "misspelt": (good.replace(hook.name, f"{hook.name}s"), f"unknown hook '{hook.name}s'"),
        "taken": (good.replace("acme-new", hook.taken), f"{hook.taken!r} exists already ({package.replace('_', '-')} "),
        "old": (good.replace("=HOOK_API_VERSION", "=0"), f"was written for version 0 of the {package} hooks"),
    }


VARIANTS = ("raises", "misspelt", "taken", "old")
COMMANDS = {
    "help": "chameleon --help",
    "plugins": "chameleon plugins",
    "plugins as JSON": "chameleon plugins --json",
    "doctor": "chameleon doctor model",
    "doctor as JSON": "chameleon doctor --json",
    "tokenize": "chameleon tokenize model a.png",
    "detokenize": "chameleon detokenize model ids.json --output document",
    "generate": "chameleon generate model Hello --max-new-tokens 3",
    "demo": "chameleon demo --output demo",
    "vq encode": "chameleon-vq encode a.png --tokenizer model --output codes.safetensors",
    "vq decode": "chameleon-vq decode codes.safetensors --tokenizer model --output pictures",
    "vq reconstruct": "chameleon-vq reconstruct a.png --tokenizer model --output both",
}
# The packages whose plugins a command looks up, and so whose broken ones it names; the lists have all.
LOOKS_UP = {
    "doctor": ["chameleon_backends"],
    "tokenize": ["chameleon_vq", "chameleon_text"],
    "detokenize": ["chameleon_text"],
    "generate": ["chameleon_text", "chameleon_backends", "chameleon_core"],
    "demo": ["chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core"],
    "vq encode": ["chameleon_vq"],
    "vq decode": ["chameleon_vq"],
    "vq reconstruct": ["chameleon_vq"],
}

# Runs each command as if in a new process: it finds the plugins anew, and warns anew.
RUN_ALL = """
import importlib, json, shlex, sys, warnings
from typer.testing import CliRunner
from chameleon_core.demo import prompts, sheet

# A third of what the demo draws: tests/integration/test_demo.py sees all of it.
prompts.KNOWN, prompts.HARD = prompts.KNOWN[:1], prompts.HARD[:1]
prompts.REPEATED_SEEDS, prompts.WITHHELD_SEEDS = (0,), ()
prompts.SHAPES = sheet.SHAPES = prompts.SHAPES[:1]
apps = {"chameleon": "chameleon_core.cli.app", "chameleon-vq": "chameleon_vq.cli.app"}
results = {}
for name, command in json.loads(sys.argv[1]).items():
    for package in ("chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core"):
        importlib.import_module(f"{package}.registry").REGISTRY.reload()
    warnings.resetwarnings()
    program, *arguments = shlex.split(command)
    result = CliRunner().invoke(importlib.import_module(apps[program]).app, arguments, env={"COLUMNS": "200"})
    results[name] = [result.exit_code, result.stdout, result.stderr, repr(result.exception)]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Each command's exit code, stdout, stderr and exception, with all the broken plugins installed."""
    folder = tmp_path_factory.mktemp("broken")
    for package in HOOKS:
        for variant, (source, _) in variants(package).items():
            module = f"acme_{package}_{variant}"
            (folder / f"{module}.py").write_text(source)
            metadata = folder / f"{module}-0.2.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{variant}-{package}\nVersion: 0.2\n")
            (metadata / "entry_points.txt").write_text(f"[{package}]\n{module} = {module}\n")
    make_chameleon(resolution=8, context_length=256).save_pretrained(folder / "model")
    PIL.Image.new("RGB", (20, 10), "red").save(folder / "a.png")
    (folder / "ids.json").write_text("[0]")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("CHAMELEON_PLUGINS", None)
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(COMMANDS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(results: dict[str, list[Any]], command: str) -> None:
    code, _, stderr, exception = results[command]
    assert code == 0, f"{exception}\n{stderr}"


@pytest.mark.parametrize("command", LOOKS_UP)
def test_a_command_names_the_broken_plugins_of_the_hooks_that_it_uses(
    results: dict[str, list[Any]], command: str
) -> None:
    _, _, stderr, _ = results[command]
    for package in LOOKS_UP[command]:
        for variant, (_, reason) in variants(package).items():
            warned = f"plugin 'acme_{package}_{variant}' of acme-{variant}-{package} 0.2 is not used: "
            assert stderr.count(warned) == 1
            assert reason in stderr[stderr.index(warned) :].splitlines()[0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("package", HOOKS)
def test_the_list_has_every_broken_plugin_with_its_reason(
    results: dict[str, list[Any]], package: str, variant: str
) -> None:
    source = f"acme-{variant}-{package}"
    (listed,) = (each for each in json.loads(results["plugins as JSON"][1]) if each["distribution"] == source)
    reason = variants(package)[variant][1]
    assert listed["status"] == "quarantined"
    assert reason in listed["note"]
    assert f"{source} 0.2: " in results["plugins"][1]
    assert " ".join(reason.split()) in " ".join(results["plugins"][1].split())


@pytest.mark.parametrize("package", HOOKS)
def test_the_built_in_that_a_broken_plugin_claimed_to_be_is_still_there(
    results: dict[str, list[Any]], package: str
) -> None:
    hook = HOOKS[package]
    found = json.loads(results["plugins as JSON"][1])
    (builtin,) = (each for each in found if each["hook"] == hook.name and each["name"] == hook.taken)
    assert (builtin["distribution"], builtin["status"]) == (package.replace("_", "-"), "ready")
