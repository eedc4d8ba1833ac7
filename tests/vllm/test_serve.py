"""``chameleon serve --engine vllm`` with the embedded model answers as a server on the toolkit's own engine does."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("vllm", reason="vLLM isn't installed: python -m nox -s vllm")
httpx2 = pytest.importorskip("httpx2", reason="httpx2 isn't installed: python -m nox -s vllm")
openai = pytest.importorskip("openai", reason="openai isn't installed: python -m nox -s vllm")

MINUTES = 4
"""How long a server may take to start, which is half a minute where nothing else runs."""
ON_VLLM = ("--engine", "vllm", "--dtype", "float32", "--max-rows", "8")
SMALL = ("--engine-option", "enforce_eager=true", "--engine-option", f"kv_cache_memory_bytes={2**28}")
DOCUMENTS = "/v1/documents"
SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 3, "temperature": 0.9}
GUIDED: dict[str, Any] = {"guidance_text": 3.0, "guidance_image": 1.2}
CODES = 64
"""Of a picture of the embedded model."""


def url_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


RED = url_of(Image.new("RGB", (64, 64), "red"))
PICTURE = {"type": "image", "url": RED}
QUESTION: list[dict[str, Any]] = [PICTURE, {"type": "text", "text": "what is this?"}]
ASKED: list[Any] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": RED}}, QUESTION[1]]}]


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server on vLLM's engine."""
    with Server(tmp_path_factory.mktemp("vllm"), *ON_VLLM, *SMALL) as server:
        yield server


@pytest.fixture(scope="module")
def core_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server on the toolkit's engine."""
    with Server(tmp_path_factory.mktemp("core"), "--max-rows", "8") as server:
        yield server


class Server:
    """A server with the embedded model in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.command = [sys.executable, "-m", "chameleon_core", "serve", "emoji", "--port", "0", *arguments]
        self.log = folder / "log"
        self.address = ""

    def __enter__(self) -> Server:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, preexec_fn=listen_to_ctrl_c)
        for _ in range(60 * MINUTES * 10):
            found = re.search(r"emoji is served at (\S+)", self.log.read_text())
            if found:
                self.address = found[1]
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"the server isn't up: {self.log.read_text()[-5000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, timeout=60)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Return the status of an answer, and what it says that isn't about its time."""
        with self.http() as client:
            answer = client.post(path, json=body)
        return answer.status_code, timeless(answer.json())

    def metric(self, name: str) -> float:
        with self.http() as client:
            lines = client.get("/metrics").text.splitlines()
        (value,) = (float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
        return value

    def settled(self, seconds: float = 20) -> bool:
        """Wait until nothing runs, and say whether it came to that."""
        end = time.monotonic() + seconds
        while self.metric("chameleon_running_rows"):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


def listen_to_ctrl_c() -> None:
    """What the tests were started from may ignore it, as jobs in the background do, and processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def timeless(answer: Any) -> Any:
    """Return an answer without what differs from one to the next of the same request."""
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


def events_of(server: Server, **body: Any) -> list[tuple[str, Any]]:
    """Return the names and the data of a stream's events."""
    found = []
    with server.http() as client, client.stream("POST", DOCUMENTS, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, timeless(json.loads(line.removeprefix("data: ")))))
    return found


BODIES: dict[str, dict[str, Any]] = {
    "a caption": {"prompt": QUESTION, "modality": "text", "options": {"max_new_tokens": 20, "do_sample": False}},
    "sampled texts": {"prompt": QUESTION, "modality": "text", "n": 3, "options": {"max_new_tokens": 20, **SAMPLED}},
    "guided pictures": {
        "prompt": "a red apple",
        "modality": "image",
        "n": 2,
        "negative_prompt": "a blue heart",
        "options": {**SAMPLED, **GUIDED},
    },
    "documents": {
        "prompt": "a heart: ",
        "template": "completion",
        "modality": "interleaved",
        "n": 2,
        "options": {"max_new_tokens": 150, **SAMPLED},
    },
    "a conversation": {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "a red square"},
            {"role": "user", "content": "draw it"},
        ],
        "modality": "image",
        "options": {**SAMPLED, "guidance_text": 1.0, "image_top_k": 50},
    },
    "processors and stop strings": {
        "prompt": QUESTION,
        "options": {
            **SAMPLED,
            "max_new_tokens": 20,
            "stop_strings": ["squ"],
            "repetition_penalty": 1.3,
            "logits_processors": [{"name": "no-repeat-ngrams", "size": 2}],
        },
    },
    "what is beyond the context": {"prompt": "say " * 400},
    "more ids than there is room for": {"prompt": "say", "options": {"max_new_tokens": 4000}},
    "an unknown option": {"prompt": "say", "options": {"temprature": 1}},
    "an impossible option": {"prompt": "say", "options": {"temperature": -1}},
    "another cache": {"prompt": "say", "options": {"cache_implementation": "int8"}},
}


@pytest.mark.parametrize("name", BODIES)
def test_documents_are_those_of_the_toolkit_s_engine(name: str, vllm_server: Server, core_server: Server) -> None:
    found = vllm_server.post(DOCUMENTS, **BODIES[name])
    assert found == core_server.post(DOCUMENTS, **BODIES[name])
    assert found[0] == (200 if "rows" in found[1] else 400)
    if "rows" in found[1]:
        assert all(row["ids"] for row in found[1]["rows"])


@pytest.mark.parametrize("name", ["a caption", "guided pictures", "documents"])
def test_streams_have_the_events_of_the_toolkit_s_engine(name: str, vllm_server: Server, core_server: Server) -> None:
    body = {**BODIES[name], "preview_every": 16}
    # Progress without a preview comes as often as time allows, and what wasn't sent yet is merged with what is newer.
    found, expected = (
        [event for event in events_of(server, **body) if event[0] != "ImageProgress"]
        for server in (vllm_server, core_server)
    )
    assert sorted(found, key=lambda event: event[1].get("row", -1)) == sorted(
        expected, key=lambda event: event[1].get("row", -1)
    )
    assert (found[0][0], found[-1][0]) == ("Started", "Done")


def test_what_was_written_goes_on(vllm_server: Server) -> None:
    body: dict[str, Any] = {"prompt": "a heart", "modality": "image", "options": {**SAMPLED, **GUIDED}}
    (whole,) = vllm_server.post(DOCUMENTS, **body)[1]["rows"]
    (rest,) = vllm_server.post(DOCUMENTS, **body, written=whole["ids"][:30])[1]["rows"]
    assert rest["ids"] == whole["ids"]


@pytest.mark.parametrize("how", [{"cells": [0, 9, 63]}, {"strength": 0.25}], ids=str)
def test_a_part_of_a_picture_is_drawn_anew(how: dict[str, Any], vllm_server: Server, core_server: Server) -> None:
    body = {"picture": RED, "prompt": "a heart", "n": 2, "options": {**SAMPLED, **GUIDED}, **how}
    found = vllm_server.post("/v1/pictures/edits", **body)
    assert found == core_server.post("/v1/pictures/edits", **body)
    before = vllm_server.post("/v1/pictures/tokens", picture=RED)[1]["codes"]
    for row in found[1]["rows"]:
        (after,) = (picture["codes"] for picture in row["pictures"])
        assert len(after) == CODES
        assert sum(one != other for one, other in zip(before, after, strict=True)) <= 16


def test_a_chat_with_a_picture(vllm_server: Server, core_server: Server) -> None:
    request: dict[str, Any] = {"model": "emoji", "messages": ASKED, "max_completion_tokens": 20}
    for more in ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 5, "n": 3, "stop": ["squ", "!"]}):
        found, expected = (
            server.openai().chat.completions.create(**request, **more) for server in (vllm_server, core_server)
        )
        assert found.choices == expected.choices
        assert found.usage == expected.usage
        assert found.choices[0].message.content


def test_a_chat_streams_text_and_pictures(vllm_server: Server) -> None:
    request: dict[str, Any] = {
        "model": "emoji",
        "messages": [{"role": "user", "content": "draw a heart"}],
        "seed": 3,
        "temperature": 0.9,
        "max_tokens": 150,
    }
    extra = {"modalities": ["text", "image"], "options": GUIDED}
    client = vllm_server.openai()
    whole: Any = client.chat.completions.create(extra_body=extra, **request).choices[0]
    chunks: Any = client.chat.completions.create(stream=True, extra_body={**extra, "partial_images": 3}, **request)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == whole.message.content
    images = [image for delta in deltas for image in getattr(delta, "images", None) or ()]
    assert images == whole.message.images
    assert any(getattr(delta, "partial_images", None) for delta in deltas)


def test_pictures_of_a_prompt(vllm_server: Server, core_server: Server) -> None:
    request: dict[str, Any] = {"model": "emoji", "prompt": "a red apple", "n": 2, "size": "64x64"}
    extra = {"seed": 7, "options": GUIDED}
    found, expected = (
        server.openai().images.generate(**request, extra_body=extra) for server in (vllm_server, core_server)
    )
    assert found.data == expected.data
    assert found.usage == expected.usage
    assert found.data[0].b64_json != found.data[1].b64_json


def test_a_picture_streams_while_it_is_drawn(vllm_server: Server) -> None:
    request: dict[str, Any] = {"model": "emoji", "prompt": "a red apple", "extra_body": {"seed": 7}}
    client = vllm_server.openai()
    events = list(client.images.generate(**request, stream=True, partial_images=3))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert events[-1].b64_json == client.images.generate(**request).data[0].b64_json


def test_errors_are_those_that_the_client_knows(vllm_server: Server) -> None:
    client = vllm_server.openai()
    request: dict[str, Any] = {"model": "emoji", "messages": [{"role": "user", "content": "Hi"}]}
    for fields, kind, param in (
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"n": 99}, openai.BadRequestError, "n"),
        ({"extra_body": {"options": {"decoding": "lookup"}}}, openai.BadRequestError, "options.decoding"),
    ):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**{**request, **fields})
        assert caught.value.body["param"] == param


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoding": "jacobi"}, "decoding isn't offered on vLLM"),
        ({"decoding": {"name": "beam", "num_beams": 2}}, "decoding isn't offered on vLLM"),
        ({"cache_implementation": "int8"}, "cache_implementation is the server's to choose"),
        ({"stop_ids": [1]}, "stop_ids"),
    ],
    ids=str,
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_vllm_can_t_do_is_refused_by_name(
    options: dict[str, Any], words: str, streams: bool, vllm_server: Server
) -> None:
    status, answer = vllm_server.post(DOCUMENTS, prompt="a heart", options=options, stream=streams)
    assert status == 400
    assert words in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_the_model_says_what_it_refuses(vllm_server: Server, core_server: Server) -> None:
    found, expected = (server.openai().models.retrieve("emoji").model_extra for server in (vllm_server, core_server))
    found, expected = found["chameleon"], expected["chameleon"]
    assert set(found.pop("refused_options")) == {"cache_implementation", "decoding"}
    assert set(expected.pop("refused_options")) == {"cache_implementation"}
    assert (found.pop("engine"), expected.pop("engine")) == ("vllm", "core")
    assert found == expected


def test_requests_at_once_are_answered_as_alone(vllm_server: Server, core_server: Server) -> None:
    """More rows than run at once, guided and not, which join and leave the batch."""
    bodies = [
        {
            "prompt": f"a {colour} {thing}",
            "modality": modality,
            "options": {**SAMPLED, "seed": seed, "guidance_text": 1.0 + seed % 3, "max_new_tokens": 100},
        }
        for seed, (colour, thing, modality) in enumerate(
            (colour, thing, modality)
            for colour in ("red", "blue", "green", "yellow")
            for thing in ("heart", "apple", "star")
            for modality in ("text", "image", "interleaved")
        )
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        found = list(pool.map(lambda body: vllm_server.post(DOCUMENTS, **body), bodies))
    assert found == [core_server.post(DOCUMENTS, **body) for body in bodies]
    assert {status for status, _ in found} == {200}


def test_clients_that_hang_up_leave_nothing_behind(vllm_server: Server) -> None:
    body: dict[str, Any] = {"prompt": "a heart", "modality": "image", "options": {**SAMPLED, **GUIDED}}
    expected = vllm_server.post(DOCUMENTS, **body)

    def hang_up(number: int) -> None:
        stream = {**body, "n": 2, "stream": True, "preview_every": 1}
        with vllm_server.http() as client, client.stream("POST", DOCUMENTS, json=stream) as response:
            for _, _line in zip(range(5 * (number % 8)), response.iter_lines(), strict=False):
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, range(32)))
    assert vllm_server.settled()
    assert vllm_server.post(DOCUMENTS, **body) == expected


def test_a_request_whose_time_is_over_ends_with_what_it_has(vllm_server: Server) -> None:
    options = {**SAMPLED, **GUIDED, "max_time": 1e-3}
    status, answer = vllm_server.post(DOCUMENTS, prompt="a heart", modality="image", options=options)
    assert (status, answer["rows"][0]["reason"]) == (200, "timeout")
    assert 0 < len(answer["rows"][0]["ids"]) < CODES


def test_the_command_refuses_threads_which_vllm_binds_itself() -> None:
    command = [sys.executable, "-m", "chameleon_core", "serve", "emoji", "--port", "0", *ON_VLLM, "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "error: threads can't be set on vLLM for CPUs" in done.stderr


def test_ctrl_c_finishes_what_runs(tmp_path: Path) -> None:
    """A single row has room for its guided group, too."""
    with Server(tmp_path, *ON_VLLM[:-1], "1", *SMALL) as server:
        body = {"prompt": "a heart", "modality": "image", "options": {**SAMPLED, **GUIDED}, "stream": True}
        with server.http() as client, client.stream("POST", DOCUMENTS, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert names[-2:] == ["Finished", "Done"]
        assert server.process.wait(60) == 130
