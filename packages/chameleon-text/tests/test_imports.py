"""Importing the package is quick and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "PIL", "hypothesis", "pytest", "huggingface_hub")
BUDGET_SECONDS = 0.3


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_takes_little_time() -> None:
    # Time of the processor, and once is enough, since others may have the machine.
    timed = "import time; start = time.process_time(); import chameleon_text; print(time.process_time() - start)"
    assert any(float(run(timed)) < BUDGET_SECONDS for _ in range(12))


@pytest.mark.parametrize(
    "code",
    [
        "import chameleon_text",
        "from chameleon_text.testing import make_tokenizer, FakeImageTokenizer; make_tokenizer().encode('the')",
        "from chameleon_text import REGISTRY; REGISTRY.registered('chameleon_text_segment_codecs')",
        "from chameleon_text import ChameleonProcessor; from chameleon_text.testing import make_tokenizer; "
        "ChameleonProcessor(make_tokenizer())(text='the', return_tensors='np')",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert run(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_importing_the_package_searches_for_no_plugins() -> None:
    assert run("import chameleon_text; print(chameleon_text.REGISTRY._registered)") == "None"
