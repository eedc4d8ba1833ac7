"""The client of vLLM's HTTP server, with a server that answers as vLLM's does and runs the embedded model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from chameleon_core import Chameleon, ConfigError, Finished, GenerationError, ImageProgress
from chameleon_vllm import CompletionsClient, EngineError
from chameleon_vllm.row_batch import RowBatch

EMOJI = Chameleon.from_pretrained("emoji")


class Handler(BaseHTTPRequestHandler):
    """Answers ``/v1/completions`` with a chunk for each id."""

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions" or body["temperature"] != 0 or not body["stream"]:
            self.send_error(400, "not what this server is for")
            return
        self.send_response(200)
        self.end_headers()
        batch = RowBatch(EMOJI.model.config, EMOJI.layout, EMOJI.processor.tokenizer)
        output: list[int] = []
        batch.add(0, body["vllm_xargs"]["chameleon"], body["prompt"], output)
        while len(output) < body["max_tokens"] and not {*output[-1:]} & {*body["stop_token_ids"]}:
            with torch.inference_mode():
                logits_1V = EMOJI.model(torch.tensor([body["prompt"] + output])).logits[:, -1]
            output.append(int(batch.apply(logits_1V).argmax()))
            chunk = {"choices": [{"text": "", "token_ids": output[-1:]}]}
            try:
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            except OSError:
                return
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def client() -> Iterator[CompletionsClient]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield CompletionsClient.from_pretrained("emoji", address=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


UNGUIDED: dict[str, Any] = {"guidance_text": 1.0, "guidance_image": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "text": {"modality": "text", "max_new_tokens": 8, "do_sample": False},
    "a picture": {"modality": "image", "do_sample": True, "seed": 3, "image_top_k": 50},
    "a document": {"modality": "interleaved", "do_sample": False, "max_new_tokens": 80},
}


@pytest.mark.parametrize("case", CASES)
def test_the_client_gives_what_the_pipeline_gives(case: str, client: CompletionsClient) -> None:
    options = {**UNGUIDED, **CASES[case]}
    found = []
    for chameleon in (EMOJI, client):
        events = chameleon.stream_batch(["a red apple", "a heart"], template="chat", **options)
        ended = {event.row: event for event in events if isinstance(event, Finished)}
        found.append([(ended[row].new_ids, ended[row].reason) for row in (0, 1)])
    assert found[0] == found[1]


def test_partial_pictures_come_while_a_picture_is_written(client: CompletionsClient) -> None:
    options = {**UNGUIDED, "modality": "image", "do_sample": False}
    events = list(client.stream("a red apple", template="chat", preview_every=16, **options))
    previews = [event for event in events if isinstance(event, ImageProgress) and event.preview is not None]
    assert [event.codes_done for event in previews] == [16, 32, 48]


def test_what_the_server_doesnt_offer_is_refused(client: CompletionsClient) -> None:
    refused: dict[str, dict[str, Any]] = {
        "Set guidance_text to 1, or use VLLMChameleon": {"guidance_image": 1.0},  # the model's own is 1.5
        "Set guidance_text and guidance_image to 1": {"guidance_text": 3.0, "guidance_image": 1.2},
        "max_time": {**UNGUIDED, "max_time": 1.0},
    }
    for said, options in refused.items():
        with pytest.raises(GenerationError, match=said):
            client.generate("a heart", modality="image", **options)
    with pytest.raises(ConfigError, match="the transformer is on the server"):
        client.to("cpu")
    with pytest.raises(ConfigError, match="the weights are on the server"):
        client.save_pretrained("folder")


def test_the_client_says_where_its_transformer_is(client: CompletionsClient) -> None:
    assert repr(client).splitlines()[:2] == [
        "CompletionsClient(",
        f"    model: 4.31 million parameters, at {client.address}",
    ]


def test_a_server_that_isnt_there_is_an_error_that_says_so() -> None:
    client = CompletionsClient.from_pretrained("emoji", address="http://127.0.0.1:1")
    with pytest.raises(EngineError, match="Is it running"):
        client.generate("a heart", modality="text", **UNGUIDED)
    with pytest.raises(ConfigError, match="address must be like"):
        CompletionsClient.from_pretrained("emoji", address="localhost:8000")
