"""vLLM's own HTTP server with the embedded model: the client's answers are the pipeline's, and nothing ends it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from chameleon_core import Chameleon, Finished, ImageProgress
from chameleon_vllm import CompletionsClient, EngineError

from .cases import GREEDY, PICTURE, QUESTIONS, SAMPLED, malformed_of, written

pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")

UNGUIDED: dict[str, Any] = {"guidance_text": 1.0, "guidance_image": 1.0}
DRAWING: dict[str, Any] = {"modality": "image", "template": "chat", **GREEDY, **UNGUIDED}
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "captions": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, **GREEDY}),
    "stop strings": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, "stop_strings": ["ar"], **GREEDY}),
    "drawings": (["a red apple", *QUESTIONS[:2]], {"modality": "image", **SAMPLED, **UNGUIDED}),
    "documents": (QUESTIONS, {"modality": "interleaved", "max_new_tokens": 100, **SAMPLED, **UNGUIDED}),
}
MINUTES = 4
"""How long the server may take to start, which is a minute where nothing else runs."""


@pytest.fixture(scope="module")
def ours() -> Chameleon:
    return Chameleon.from_pretrained("emoji")


@pytest.fixture(scope="module")
def client(ours: Chameleon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionsClient]:
    """A client of a server that is started as docs/engines.md says."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(ours.model.source)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--skip-tokenizer-init", "--no-async-scheduling"]
    command += ["--logits-processors", "chameleon_vllm.processor:RowProcessor", "--generation-config", "vllm"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(2**27)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output:
        environment = {**os.environ, "VLLM_USE_V2_MODEL_RUNNER": "0"}
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            for _ in range(60 * MINUTES):
                assert server.poll() is None, log.read_text()[-5000:]
                if status(port, "GET", "/health") == 200:
                    break
                time.sleep(1)
            else:
                pytest.fail(f"the server isn't up: {log.read_text()[-5000:]}")
            yield CompletionsClient.from_pretrained("emoji", address=f"http://127.0.0.1:{port}", timeout=120)
        finally:
            server.terminate()
            server.wait(60)


def status(port: int, method: str, path: str, body: Any = None) -> int:
    """Return the status of an answer; 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("case", CASES)
def test_the_client_writes_what_the_pipeline_writes(case: str, client: CompletionsClient, ours: Chameleon) -> None:
    assert written(client, CASES[case]) == written(ours, CASES[case])


def test_pictures_come_in_parts(client: CompletionsClient, ours: Chameleon) -> None:
    events, expected = (list(each.stream("a heart", preview_every=16, **DRAWING)) for each in (client, ours))
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert events[-1] == expected[-1]
    previews = [event for event in events if isinstance(event, ImageProgress) and event.preview is not None]
    assert [event.codes_done for event in previews] == [16, 32, 48]


def test_the_short_forms_are_there(client: CompletionsClient, ours: Chameleon) -> None:
    assert client.caption(PICTURE) == ours.caption(PICTURE)
    assert client.draw("a heart", seed=1, **UNGUIDED) == ours.draw("a heart", seed=1, **UNGUIDED)


def test_a_stream_that_is_closed_leaves_the_server_to_others(client: CompletionsClient) -> None:
    expected = client.generate("a heart", **DRAWING)
    for _ in range(12):  # more than run at once
        stream = client.stream("a heart", **DRAWING)
        next(stream)
        stream.close()
    assert client.generate("a heart", **DRAWING) == expected


def test_malformed_requests_leave_the_server_alive_and_the_others_right(client: CompletionsClient) -> None:
    port = int(client.address.rpartition(":")[2])
    alone = client.generate("a heart", **DRAWING)
    found: dict[str, int] = {}

    def post(name: str, body: Any) -> None:
        found[name] = status(port, "POST", "/v1/completions", body)

    stream = client.stream("a heart", **DRAWING)
    events = [next(stream)]
    common = {"temperature": 0, "max_tokens": 9, "stop_token_ids": [*range(3)], "return_token_ids": True}
    threads = [
        threading.Thread(target=post, args=(name, {**common, "prompt": ids, "vllm_xargs": {"chameleon": parameter}}))
        for name, (parameter, ids) in malformed_of(client).items()
    ]
    for thread in threads:
        thread.start()
    events += stream
    for thread in threads:
        thread.join(60)
    assert isinstance(events[-1], Finished)
    assert events[-1].document == alone
    assert {found["no JSON"], found["an unknown field"], found["an impossible option"], found["no length"]} == {400}
    assert set(found.values()) <= {200, 400, 422}
    assert client.generate("a heart", **DRAWING) == alone


def test_an_answer_that_is_no_row_s_is_an_error(client: CompletionsClient) -> None:
    refused = [{"prompt": [0, 5], "temperature": 1.0, "vllm_xargs": {"chameleon": '{"prompt_length": 2}'}}]
    refused += [{"prompt": [0, 5], "temperature": 0, "vllm_xargs": {"chameleon": "{"}}]
    for body in refused:
        with pytest.raises(EngineError, match="answered 400"):
            list(client._ids(body))
