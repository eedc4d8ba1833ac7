"""The time that importing the package takes and the modules that it loads, in new processes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import chameleon_vq
from chameleon_vq import pictures
from chameleon_vq.testing import make_image_tokenizer

LIMIT_S = 0.3
COMPILER = ("torch._dynamo", "torch._inductor", "sympy")


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_takes_little_more_than_importing_torch() -> None:
    before, imports = "import time, torch; start = time.process_time()", "from chameleon_vq import *"
    code = f"{before}; {imports}; print(time.process_time() - start)"
    # Processor time, and once is enough, because other programs slow some of the runs down.
    assert any(float(run(code)) < LIMIT_S for _ in range(6))


@pytest.mark.parametrize("argument", ["--help", "--version", "encode --help", "encoed"])
def test_what_the_command_says_of_itself_loads_no_torch(argument: str) -> None:
    pytest.importorskip("typer")
    code = (
        "import sys\nfrom chameleon_vq.cli import main\n"
        "try:\n    main()\nfinally:\n    print('\\n', *(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argument.split()], capture_output=True, text=True, check=False)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "safetensors"}


def test_loading_a_tokenizer_and_using_it_loads_no_compiler(tmp_path: Path) -> None:
    make_image_tokenizer().save_pretrained(tmp_path)
    code = (
        "import sys, numpy, chameleon_vq\n"
        "tokenizer = chameleon_vq.ImageTokenizer.from_pretrained(sys.argv[1])\n"
        "tokenizer.decode(tokenizer.encode(numpy.zeros((32, 32, 3), numpy.uint8)))\n"
        f"print(*[name for name in {COMPILER} if name in sys.modules])"
    )
    assert run(code, str(tmp_path)).split() == []


def test_every_public_name_and_module_is_found() -> None:
    code = (
        "import chameleon_vq, inspect\n"
        "for name in chameleon_vq.__all__: assert name in dir(chameleon_vq) and hasattr(chameleon_vq, name), name\n"
        "print(inspect.ismodule(chameleon_vq.pictures), hasattr(chameleon_vq, 'picturs'))"
    )
    assert run(code).split() == ["True", "False"]


def test_importing_loads_no_optional_package_and_no_sibling() -> None:
    code = "import sys, chameleon_vq.testing; from chameleon_vq import *; print(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in run(code).split()}
    assert not loaded & {"typer", "rich", "hypothesis", "pytest", "transformers", "diffusers", "torchvision"}
    assert not loaded & {"chameleon_text", "chameleon_core", "chameleon_backends"}


def test_without_the_testing_packages_the_install_line_is_named() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; from chameleon_vq.testing import pictures"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(code)
    assert "MissingPackageError: chameleon_vq.testing.pictures needs the package 'hypothesis'" in caught.value.stderr
    assert "pip install './packages/chameleon-vq[testing]'" in caught.value.stderr


def test_importing_looks_for_no_plugins() -> None:
    code = "import chameleon_vq.registry as registry; print(registry.REGISTRY._registered)"
    assert run(code).strip() == "None"


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chameleon_vq.__version__ == project["version"]


def test_help_begins_with_what_people_come_for() -> None:
    start = (chameleon_vq.__doc__ or "").split("- ")[1:4]
    assert [each.split("(")[0].strip("`") for each in start] == [
        "ImageTokenizer.from_pretrained",
        "tokenizer.encode_folder",
        "reconstruct",
    ]


def test_an_old_name_warns_and_is_the_new_thing() -> None:
    with pytest.warns(DeprecationWarning, match=r"pictures\.PIXEL_LIMIT is chameleon_vq\.pictures\.MAX_PIXELS now"):
        assert pictures.PIXEL_LIMIT == pictures.MAX_PIXELS


def test_listing_quantizers_loads_nothing_beyond_the_package() -> None:
    code = (
        "import os, sys, chameleon_vq.registry; os.environ['CHAMELEON_PLUGINS'] = ''; before = set(sys.modules)\n"
        "from chameleon_vq.registry import REGISTRY, VECTOR_QUANTIZERS_HOOK\n"
        "print(len([each.why_unavailable() for each in REGISTRY.registered(VECTOR_QUANTIZERS_HOOK)]))\n"
        "print(*(set(sys.modules) - before))"
    )
    assert run(code).split() == ["6"]
