"""What reaches a terminal or a pipe: no control characters, no traceback for an encoding or a reader that went away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chameleon_core import FileFormatError
from chameleon_core.cli.output import Writer
from chameleon_core.cli.terminal import echo, print_message, printable
from chameleon_core.cli.tokens import _ids
from chameleon_core.pipeline import Finished, TextDelta

HOSTILE = "a\x1b]0;title\x07b\x9bc\rd\x08e\u202ef\u2066g\u2069h"
HARMLESS = "a\ufffd]0;title\ufffdb\ufffdc\ufffdd\ufffde\ufffdf\ufffdg\ufffdh"


def chameleon(*arguments: str, encoding: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chameleon_core", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding=encoding,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )


def test_text_is_left_as_it_is_where_a_terminal_shows_it() -> None:
    text = "tab\t line\n ré 中 \U0001f600 ‏עברית e\u0301 \u200d"
    assert printable(text) == text
    assert printable(HOSTILE) == HARMLESS


def test_no_control_character_or_override_reaches_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_message(HOSTILE, style="red")
    assert capsys.readouterr().err == f"{HARMLESS}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Writer(None).follow([TextDelta(0, HOSTILE), Finished(0, "stop", [])])
    assert capsys.readouterr().out == HARMLESS
    echo(HOSTILE)
    assert capsys.readouterr().out == f"{HARMLESS}\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_message_that_the_encoding_lacks_is_escaped(encoding: str) -> None:
    process = chameleon("tokenize", "/nowhere/\u4e2d\u202e\x1b", "--text", "x", encoding=encoding)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.startswith("error: can't find the model")
    assert ("\u4e2d" if encoding == "utf-8" else r"\u4e2d") in said
    assert "\x1b" not in said


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("command", [("plugins",), ("plugins", "--json")])
def test_a_reader_that_went_away_is_quiet(command: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = chameleon(*command, encoding="utf-8", stdout=writing)
    os.close(writing)
    _, said = process.communicate(timeout=120)
    assert said == ""
    assert process.returncode in (1, 141)  # rich's own way, and ours


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" + b"1" * 5000 + b"]",
        b'["\\ud800"]',
        b"\xff\xfe[1]",
        b"[NaN]",
        b"[1.0]",
        b"[true]",
        b"{}",
        b"null",
        b"",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_of_anything_but_ids_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="chameleon tokenize"):
        _ids(path)
    path.write_text(json.dumps([0, 1]))
    assert _ids(path) == [0, 1]
