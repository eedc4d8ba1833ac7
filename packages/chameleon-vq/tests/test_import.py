"""The time that importing the package takes and the modules that it loads, in new processes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import chameleon_vq
from chameleon_vq import pictures

LIMIT_S = 0.3


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_takes_little_more_than_importing_torch() -> None:
    code = "import time, torch; start = time.process_time(); import chameleon_vq; print(time.process_time() - start)"
    # Processor time, and the minimum of a few runs, because other programs slow some of them down.
    assert min(float(run(code)) for _ in range(3)) < LIMIT_S


def test_importing_loads_no_optional_package_and_no_sibling() -> None:
    code = "import sys, chameleon_vq, chameleon_vq.testing; print(*sorted(sys.modules))"
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
        "import os, sys, chameleon_vq; os.environ['CHAMELEON_PLUGINS'] = ''; before = set(sys.modules)\n"
        "from chameleon_vq.registry import REGISTRY, VECTOR_QUANTIZERS_HOOK\n"
        "print(len([each.why_unavailable() for each in REGISTRY.registered(VECTOR_QUANTIZERS_HOOK)]))\n"
        "print(*(set(sys.modules) - before))"
    )
    assert run(code).split() == ["6"]
