"""The short form of ``nox -s fuzz``: what broken files of every format come to within two minutes, in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_broken_files_of_every_format_are_refused_or_read_well(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--inputs", "10000", "--minutes", "2", "--workers", "1")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "run", *limits],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "") + f":{ROOT}"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.nice(10),  # other tests run beside it
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    # How many there were depends on the machine.
    said = re.search(r"^[\d,]+ inputs, peak.*$", done.stdout, re.MULTILINE)
    assert said is not None, done.stdout
    with capsys.disabled():
        sys.stdout.write(f"\n{said[0]}\n")
