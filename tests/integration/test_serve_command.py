"""``chameleon serve``: what it passes on, what it says where the package is missing, and a server that Ctrl-C stops."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

import chameleon_serve
from chameleon_core.cli.app import app
from chameleon_serve import ServeOptions


def test_the_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[ServeOptions] = []
    monkeypatch.setattr(chameleon_serve, "serve", lambda options, ready: found.append(options), raising=False)
    line = "serve models/small --port 0 --host 0.0.0.0 --api-key key --cors http://a.example --allowed-host box"
    more = "--engine-option image_device=cpu --engine-option max_num_seqs=8 --dtype bfloat16 --attention eager"
    limits = "--max-rows 4 --max-positions 900 --prefix-positions 64 --max-waiting 7 --max-new-tokens 50"
    limits += " --max-seconds 9 --threads 2"
    result = CliRunner().invoke(app, f"{line} {more} {limits}".split())
    assert result.exit_code == 0, result.output
    (options,) = found
    assert options == ServeOptions(
        model="models/small",
        port=0,
        host="0.0.0.0",
        api_key="key",
        cors_origins=("http://a.example",),
        allowed_hosts=("box",),
        engine_options={
            "dtype": "bfloat16",
            "attn_implementation": "eager",
            "image_device": "cpu",
            "max_num_seqs": 8,
        },
        max_rows=4,
        max_positions=900,
        prefix_positions=64,
        max_waiting=7,
        max_new_tokens=50,
        max_seconds=9.0,
        threads=2,
        engine_process=True,
    )
    assert "warning" not in result.output
    for more, expected in (("--no-engine-process", False), ("--engine vllm", False), ("--engine-process", True)):
        CliRunner().invoke(app, f"{line} {more}".split())
        assert found.pop().engine_process is expected
    result = CliRunner().invoke(app, ["serve", "emoji", "--host", "0.0.0.0"])
    assert "no key is asked for" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "other"], "engine"),
        (["--engine-option", "nothing"], "NAME=VALUE"),
        (["--port", "70000"], "65535"),
        (["--max-seconds", "0"], "max_seconds"),
    ],
)
def test_impossible_options_are_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["serve", "emoji", *arguments])
    assert result.exit_code != 0
    assert words in re.sub(r"\s+", " ", result.output)


def test_without_the_package_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chameleon_serve", None)
    result = CliRunner().invoke(app, ["serve", "emoji"])
    assert result.exit_code == 1
    assert "pip install ./packages/chameleon-serve" in re.sub(r"\s+", " ", result.output)


def listen_to_ctrl_c() -> None:
    """What the tests were started from may ignore it, as jobs in the background do, and processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_folder_is_served_until_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "chameleon_core", "serve", str(folder), "--port", "0", "--name", "mine"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_ctrl_c)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert line.startswith("mine is served at http://127.0.0.1:"), line + server.stderr.read()
        with httpx2.Client(base_url=line.split()[-1], timeout=60) as client:
            answer: Any = client.post("/v1/documents", json={"prompt": "a cat", "modality": "image"}).json()
            assert len(answer["rows"][0]["pictures"][0]["codes"]) == 16
            page = client.get("/")
            assert page.status_code == 200
            assert "script-src 'self'" in page.headers["content-security-policy"]
            tag = page.headers["etag"]
            assert client.get("/", headers={"If-None-Match": tag}).status_code == 304
        server.send_signal(signal.SIGINT)
        _, printed = server.communicate(timeout=30)
        assert (server.returncode, printed) == (130, "")
    finally:
        server.kill()
        server.communicate()
