"""What importing a package loads, how long it takes, and that each leaf stands alone: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

LEAVES = ("chameleon_vq", "chameleon_text", "chameleon_backends")
KERNELS = (
    "flash_attn",
    "flash_attn_interface",
    "bitsandbytes",
    "torchao",
    "triton",
    "torch._inductor",
    "torch.nn.attention.flex_attention",
)

# The processor time of what an import does (reading code, making classes), of a fixed amount of it. Other programs slow
# it as much as the import beside it, so the quotient of the two is the same on a busy machine.
UNIT = """
import marshal, time

lines = ["import dataclasses"]
for number in range(20):
    lines += ["@dataclasses.dataclass", f"class C{number}:", f"    a: int = {number}", "    b: str = ''"]
    lines += ["    def method(self, value: int) -> int:", "        return value + self.a"]
code = marshal.dumps(compile(chr(10).join(lines), "unit", "exec"))

def unit():
    start = time.process_time()
    for _ in range(3):
        exec(marshal.loads(code), {"__name__": "unit"})
    return time.process_time() - start

unit()
"""
UNITS = 20
"""At most 0.3 s on the machine of CI, where a unit takes 15 ms."""


def run(code: str) -> str:
    """What a fresh Python prints, with warnings as errors and no plugins but the built-ins."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | {"CHAMELEON_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(code: str, modules: tuple[str, ...]) -> list[str]:
    """Which of these modules a fresh Python has loaded after some code."""
    return run(f"{code}\nimport sys\nprint(*[name for name in {modules!r} if name in sys.modules])").split()


# Everything but the blocked packages can be imported, as if those weren't installed.
BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_text_loads_no_torch() -> None:
    assert loaded("import chameleon_text", ("torch", "transformers", "numpy")) == []


def test_backends_load_no_kernel_library_when_they_are_listed() -> None:
    listing = """
from chameleon_backends import attention_backend_names, why_attention_unavailable
reasons = {name: why_attention_unavailable(name) for name in attention_backend_names()}
assert reasons["eager"] is None and reasons["sdpa"] is None
"""
    assert loaded(listing, (*KERNELS, "transformers")) == []


def test_making_the_default_backend_loads_no_kernel_library() -> None:
    assert loaded("import chameleon_backends; chameleon_backends.get_attention_backend()", KERNELS) == []


def test_importing_core_loads_neither_a_kernel_library_nor_an_optional_package() -> None:
    optional = ("chameleon_vq", "chameleon_text", "transformers", "huggingface_hub", "typer", "rich", "PIL", "yaml")
    assert loaded("from chameleon_core import *", (*KERNELS, *optional)) == []


@pytest.mark.parametrize("package", LEAVES)
def test_a_leaf_stands_alone(package: str) -> None:
    others = {"chameleon_vq", "chameleon_text", "chameleon_backends", "chameleon_core", "transformers"} - {package}
    run(f"{BLOCK.format(blocked=others)}\nfrom {package} import *")


def test_core_needs_backends_alone() -> None:
    code = """
import chameleon_core, importlib, pkgutil

for module in pkgutil.walk_packages(chameleon_core.__path__, "chameleon_core."):
    if not module.name.startswith("chameleon_core.demo"):
        importlib.import_module(module.name)
"""
    # Only the demonstration, which shows all packages at work, needs them all.
    run(BLOCK.format(blocked={"chameleon_vq", "chameleon_text", "transformers"}) + code)


@pytest.mark.parametrize(
    ("package", "loaded_before"),
    [("chameleon_text", "sys"), ("chameleon_vq", "torch"), ("chameleon_backends", "torch")],
)
def test_importing_a_leaf_takes_little_time(package: str, loaded_before: str) -> None:
    """On top of what it can't do without. Once is enough: other programs begin and end at any time."""
    code = f"""{UNIT}
import {loaded_before}
before = unit()
start = time.process_time()
from {package} import *
taken = time.process_time() - start
print(2 * taken / (before + unit()))
"""
    found: list[float] = []
    while len(found) < 6 and not any(units < UNITS for units in found):
        found.append(float(run(code)))
    assert min(found) < UNITS, f"importing takes {found} times the unit of this test"
