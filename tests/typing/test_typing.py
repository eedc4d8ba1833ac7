"""The types of the public names, as mypy and pyright see them in a script of a user's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")
LINES = SCRIPT.read_text(encoding="utf-8").splitlines()
EXPECTED = [number for number, line in enumerate(LINES, start=1) if line.endswith("# expect-error")]


def check(*command: str) -> str:
    """What a type checker prints of the script, whatever its exit code."""
    return subprocess.run(
        [sys.executable, "-m", *command, str(SCRIPT)], capture_output=True, text=True, timeout=600
    ).stdout


def mypy() -> dict[int, str]:
    """The lines with errors, and the last error of each."""
    # With the options of `mypy -p chameleon_core`, whose cache it then shares.
    printed = check("mypy")
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", printed, re.MULTILINE)
    assert all(Path(path).resolve() == SCRIPT.resolve() for path, _, _ in found), found
    return {int(line): message for _, line, message in found}


def pyright() -> dict[int, str]:
    """The lines with errors, and the last error of each."""
    pytest.importorskip("pyright", reason="pyright isn't installed here; nox installs it")
    report = json.loads(check("pyright", "--outputjson", "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] == 1
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return {each["range"]["start"]["line"] + 1: each["message"] for each in errors}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_finds_every_mistake_of_a_user_s_script_and_no_other(checker: object) -> None:
    assert callable(checker)
    errors = checker()
    assert {line: message for line, message in errors.items() if line not in EXPECTED} == {}
    assert [line for line in EXPECTED if line not in errors] == []
