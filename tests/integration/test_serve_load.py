"""Many requests at once: each has the ids that it has alone, nothing is lost, and whoever goes away leaves nothing."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from chameleon_core import Chameleon, Finished
from chameleon_core.serving import FrontChameleon
from chameleon_core.serving.engine_process import EngineProcess
from chameleon_serve.runner import READERS

from .served import Served, events_of, serving, small_pipeline

DOCUMENTS = "/v1/documents"
ROWS = 8


@pytest.fixture(scope="module")
def alone() -> Chameleon:
    return small_pipeline()


@pytest.fixture(scope="module", params=[False, True], ids=["one process", "two processes"])
def served(
    alone: Chameleon, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    bounds: Any = {"max_rows": ROWS, "max_positions": 1200}
    with contextlib.ExitStack() as stack:
        shared = None
        if request.param:
            folder = tmp_path_factory.mktemp("model")
            alone.save_pretrained(folder)
            shared = FrontChameleon.from_pretrained(folder, dtype="float64", bounds=bounds)
            stack.callback(shared.close)
        yield stack.enter_context(serving(alone, shared=shared, max_waiting=500, **bounds))


def calls_of(served: Served) -> Any:
    """The calls that the engine has not done with."""
    shared = served.chameleon.shared
    return shared._link._calls if isinstance(shared, EngineProcess) else shared._stepper._calls


def mixed(number: int) -> dict[str, Any]:
    """A caption, a drawing or an interleaved document."""
    kind = ("text", "image", "interleaved")[number % 3]
    options = {"do_sample": True, "seed": number, **({} if kind == "image" else {"max_new_tokens": 10 + number % 30})}
    return {"prompt": f"Request {number}", "modality": kind, "options": options, "user": f"user {number % 5}"}


def test_many_at_once_write_what_each_writes_alone_and_none_is_lost(served: Served, alone: Chameleon) -> None:
    bodies = [mixed(number) for number in range(36)]
    with ThreadPoolExecutor(32) as pool, served.client() as client:
        answers = list(pool.map(lambda body: client.post(DOCUMENTS, json=body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200, answer.text
        (end,) = [
            event
            for event in alone.stream(body["prompt"], modality=body["modality"], template="chat", **body["options"])
            if isinstance(event, Finished)
        ]
        assert answer.json()["rows"][0]["ids"] == list(end.new_ids)
    assert served.settled()
    assert served.chameleon.shared.positions == 0


def hang_up(served: Served, number: int, seconds: float) -> None:
    """Send a request, and close the connection some time later."""
    body = mixed(number) | {"stream": number % 2 == 0}
    content = json.dumps(body).encode()
    head = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    if number % 10 == 0:
        whole = whole[: len(whole) - 20]  # before all of it was sent
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(whole)
        time.sleep(seconds)


def test_clients_that_hang_up_at_any_moment_leave_nothing_behind(served: Served) -> None:
    chance = random.Random(0)
    served.post(DOCUMENTS, **mixed(1))
    assert served.settled()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = threading.active_count()
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda number: hang_up(served, number, chance.random() * 0.3), range(200)))
    assert served.settled()
    gc.collect()
    assert served.chameleon.shared.positions == 0
    assert not calls_of(served)
    assert (served.runner.gate._running, served.runner.gate._waiting) == ({}, {})
    if before:
        time.sleep(0.2)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert threading.active_count() <= threads + ROWS + READERS
    assert served.post(DOCUMENTS, **mixed(1)).status_code == 200


def test_those_beyond_the_queue_are_told_to_come_back(alone: Chameleon) -> None:
    with serving(alone, max_rows=1, max_waiting=2) as small, small.client() as client:
        body = {"prompt": "a story", "modality": "text", "options": {"max_new_tokens": 150}}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: client.post(DOCUMENTS, json=body), range(12)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 3
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert small.settled()


def test_a_request_ends_when_its_time_is_over_with_what_it_has(alone: Chameleon) -> None:
    with serving(alone, max_rows=1, max_seconds=0.2) as hurried, hurried.client() as client:
        body = {"prompt": "a story", "modality": "text", "options": {"forbidden_ids": [2]}}
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: client.post(DOCUMENTS, json=body), range(3)))
        reasons = [answer.json()["rows"][0]["reason"] for answer in answers if answer.status_code == 200]
        assert "timeout" in reasons
        late = [answer.json()["error"]["code"] for answer in answers if answer.status_code != 200]
        assert late == ["timeout"] * len(late)
        assert all(answer.status_code in (200, 503) for answer in answers)
        assert hurried.settled()


def test_a_client_may_give_less_time_than_the_server(served: Served) -> None:
    body = {"prompt": "a story", "modality": "text", "options": {"max_time": 0.0, "forbidden_ids": [2]}}
    (row,) = served.post(DOCUMENTS, **body).json()["rows"]
    assert (row["reason"], len(row["ids"])) == ("timeout", 1)


def test_a_reader_that_stands_still_is_given_up_and_holds_nobody_up(alone: Chameleon) -> None:
    with serving(alone, max_rows=4, send_seconds=0.5) as impatient:
        body = {"prompt": "a story", "modality": "interleaved", "stream": True, "preview_every": 1, "n": 2}
        body["options"] = {"max_new_tokens": 150}
        content = json.dumps(body).encode()
        head = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect(("127.0.0.1", impatient.port))
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            start = time.monotonic()
            assert impatient.post(DOCUMENTS, **mixed(1)).status_code == 200
            assert time.monotonic() - start < 10
            assert impatient.settled()


@pytest.mark.parametrize("streams", [False, True])
def test_what_runs_is_finished_when_the_server_is_stopped(streams: bool) -> None:
    """A process of its own, because it is told by a signal."""
    code = """
import torch
from chameleon_core.demo import make_chameleon
from chameleon_core.serving import SharedChameleon
from chameleon_serve import ServeOptions, serve

torch.set_num_threads(1)
alone = make_chameleon(resolution=8, context_length=4096)
shared = SharedChameleon(alone.model, alone.processor, alone.image_tokenizer)
shared.limit(max_rows=1)
options = ServeOptions(model="small", port=0, max_rows=1)
serve(options, chameleon=shared, ready=lambda address: print(address, flush=True))
"""
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        body = {"prompt": "a story", "modality": "text", "options": {"max_new_tokens": 300, "forbidden_ids": [2]}}
        with httpx2.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(3) as pool:
            first = pool.submit(client.post, DOCUMENTS, json={**body, "stream": streams})
            wait_until(client, "chameleon_running_rows 1.0")
            second = pool.submit(client.post, DOCUMENTS, json=body)
            wait_until(client, "chameleon_waiting_requests 1.0")
            server.terminate()
            assert second.result().status_code == 503
            answer = first.result()
        assert answer.status_code == 200
        if streams:
            (row,) = [json.loads(data) for name, data in events_of(answer) if name == "Finished"]
        else:
            (row,) = answer.json()["rows"]
        assert len(row["ids"]) == 300
        assert server.wait(30) is not None
    finally:
        server.kill()
        server.communicate()


def wait_until(client: httpx2.Client, line: str) -> None:
    for _ in range(500):
        if line in client.get("/metrics").text:
            return
        time.sleep(0.01)
    raise AssertionError(f"{line!r} never came")
