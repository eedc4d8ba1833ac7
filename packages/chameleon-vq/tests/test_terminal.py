"""What reaches a terminal or a pipe: no control characters, no traceback for an encoding or a reader that went away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")


def chameleon_vq(*arguments: str, encoding: str = "utf-8", stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chameleon_vq", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding=encoding,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"},
    )


def test_a_message_that_the_encoding_lacks_is_escaped() -> None:
    process = chameleon_vq("decode", "/nowhere/\u4e2d\u202e\x1b", "-t", "tok", encoding="ascii")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.startswith("error: there is no file of codes /nowhere/\\u4e2d")
    assert "\x1b" not in said


@pytest.mark.skipif(os.name == "nt", reason="has no such pipes")
def test_a_reader_that_went_away_ends_the_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = chameleon_vq("--version", stdout=writer)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is full")
def test_a_full_disk_is_said_in_a_line() -> None:
    with open("/dev/full", "w") as full:
        process = chameleon_vq("--version", stdout=full.fileno())
    _, said = process.communicate(timeout=120)
    assert process.returncode
    assert len(said.splitlines()) <= 1
