"""The server whose engine has a process of its own: both end together, and what runs is finished before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chameleon_core import ConfigError
from chameleon_serve import ServeOptions
from chameleon_serve.loading import load_pipeline

REQUEST = {"prompt": "a cat", "modality": "text", "options": {"max_new_tokens": 200, "stop_ids": [], "seed": 1}}


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a group of processes of its own, and its address."""
    command = [sys.executable, "-m", "chameleon_core", "serve", str(folder), "--port", "0", "--threads", "1", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert "is served at" in line, line + server.stderr.read()
        yield server, line.split()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def engines(server: int) -> list[int]:
    """The processes that a server has started and that hold a model."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(each.read_text().rpartition(")")[2].split()[1])
            command = (each.parent / "cmdline").read_bytes()
            if parent == server and b"spawn_main" in command:
                found.append(int(each.parent.name))
    return found


def comes_true(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def test_a_signal_to_all_processes_lets_what_runs_be_finished(folder: Path) -> None:
    with served(folder) as (server, address), httpx2.Client(base_url=address, timeout=60) as client:
        (engine,) = engines(server.pid)
        with client.stream("POST", "/v1/documents", json={**REQUEST, "stream": True}) as response:
            lines = response.iter_lines()
            while not next(lines).startswith("event: TextDelta"):
                pass
            os.killpg(server.pid, signal.SIGTERM)
            names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert names[-2:] == ["Finished", "Done"]
        _, printed = server.communicate(timeout=30)
        assert (server.returncode, printed) == (-signal.SIGTERM, "")
        assert comes_true(lambda: not Path(f"/proc/{engine}").exists())


def test_ctrl_c_while_the_engine_starts_ends_both_without_a_traceback(folder: Path) -> None:
    command = [sys.executable, "-m", "chameleon_core", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert comes_true(lambda: bool(engines(server.pid)))
        (engine,) = engines(server.pid)
        os.killpg(server.pid, signal.SIGINT)
        _, printed = server.communicate(timeout=30)
        assert server.returncode == 130
        assert "Traceback" not in printed
        assert comes_true(lambda: not Path(f"/proc/{engine}").exists())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def test_a_server_without_an_engine_says_so(folder: Path) -> None:
    with served(folder) as (server, address), httpx2.Client(base_url=address, timeout=60) as client:
        assert client.get("/health").json() == {"status": "ok"}
        (engine,) = engines(server.pid)
        os.kill(engine, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.post, "/v1/documents", json=REQUEST)
            assert comes_true(lambda: "chameleon_running_rows 1.0" in client.get("/metrics").text)
            os.kill(engine, signal.SIGKILL)
            response = waiting.result()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_ended")
        assert comes_true(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json() == {"status": "failed"}
        answer = client.post("/v1/images/generations", json={"prompt": "a cat"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_ended")
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
        assert server.returncode == -signal.SIGTERM


def test_both_kinds_of_server_write_the_same(folder: Path) -> None:
    answers: list[Any] = []
    for option, count in (("--engine-process", 1), ("--no-engine-process", 0)):
        with served(folder, option) as (server, address), httpx2.Client(base_url=address, timeout=60) as client:
            assert len(engines(server.pid)) == count
            answer = client.post("/v1/documents", json={"prompt": "a cat", "modality": "image", "n": 3})
            answers.append([row["ids"] for row in answer.json()["rows"]])
            assert "chameleon_cached_positions 0.0" in client.get("/metrics").text
    assert answers[0] == answers[1]
    assert len(json.dumps(answers[0])) > 100


def test_a_folder_that_can_not_be_loaded_is_an_error_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chameleon_core", "serve", str(tmp_path / "nowhere"), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_arguments_that_belong_to_the_server_are_no_engine_options() -> None:
    for name in ("bounds", "threads"):
        with pytest.raises(ConfigError, match=f"{name} is no argument of a model"):
            load_pipeline(ServeOptions(model="emoji", engine_process=True, engine_options={name: 1}))
    with pytest.raises(ConfigError, match="engine_process is an option of the toolkit's engine"):
        load_pipeline(ServeOptions(model="emoji", engine="vllm", engine_process=True))
