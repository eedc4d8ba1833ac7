"""What any client may send: malformed and oversized requests, slow ones, wrong names and keys. The server stays up."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from chameleon_core import Chameleon

from .served import CONTEXT, Served, picture, serving, small_pipeline, url_of

CHAT, DOCUMENTS, IMAGES = "/v1/chat/completions", "/v1/documents", "/v1/images/generations"
EDITS, TOKENS = "/v1/pictures/edits", "/v1/pictures/tokens"
BODY_LIMIT = 300_000
PIXELS = 40_000
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def alone() -> Chameleon:
    return small_pipeline()


@pytest.fixture(scope="module")
def served(alone: Chameleon) -> Iterator[Served]:
    with serving(alone, max_body_bytes=BODY_LIMIT, max_pixels=PIXELS, max_pictures=3, read_seconds=1.0) as found:
        yield found


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def shown(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def bomb(side: int = 30_000) -> str:
    """A PNG of a few kilobytes that has a billion pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * 100))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


PART = shown(url_of(picture()))
MALFORMED: dict[str, tuple[str, Any, int]] = {
    "no JSON": (CHAT, b"{", 400),
    "a list": (CHAT, [], 400),
    "not UTF-8": (CHAT, b'{"messages": "\xff"}', 400),
    "nested too deep": (CHAT, b'{"options": ' + b"[" * 50_000, 400),
    "NaN": (CHAT, b'{"messages": [], "temperature": NaN}', 400),
    "half of a surrogate pair": (DOCUMENTS, rb'{"prompt": "\ud800"}', 400),
    "no messages": (CHAT, {}, 400),
    "no message": (CHAT, {"messages": []}, 400),
    "messages of another type": (CHAT, {"messages": "Hi"}, 400),
    "a message of another type": (CHAT, {"messages": ["Hi"]}, 400),
    "an unknown role": (CHAT, {"messages": [{"role": "tool", "content": "Hi"}]}, 400),
    "the model speaks last": (CHAT, {"messages": [{"role": "assistant", "content": "Hi"}]}, 400),
    "no content": (CHAT, {"messages": [{"role": "user"}]}, 400),
    "content of another type": (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400),
    "an unknown part": (CHAT, chat({"type": "sound", "data": "…"}), 400),
    "a part without a type": (CHAT, chat({"text": "Hi"}), 400),
    "a text that is a number": (CHAT, chat({"type": "text", "text": 5}), 400),
    "a URL": (CHAT, chat(shown("https://example.com/cat.png")), 400),
    "a URL of a file": (CHAT, chat(shown("file:///etc/passwd")), 400),
    "a path": (CHAT, chat(shown("/etc/passwd")), 400),
    "a path in a document": (DOCUMENTS, {"prompt": [{"type": "image", "path": "/etc/passwd"}]}, 400),
    "a data URL without base64": (CHAT, chat(shown("data:image/png,abc")), 400),
    "broken base64": (CHAT, chat(shown("data:image/png;base64,a*b")), 400),
    "base64 of no picture": (CHAT, chat(shown("data:image/png;base64,AAAA")), 400),
    "a broken picture": (CHAT, chat(shown(url_of(picture())[:-60] + "AAAA")), 400),
    "a bomb": (CHAT, chat(shown(bomb())), 400),
    "too many pixels": (CHAT, chat(shown(url_of(picture(side=202)))), 400),
    "too many pictures": (CHAT, chat(*[PART] * 4), 400),
    "detail": (CHAT, chat({"type": "image_url", "image_url": {"url": url_of(picture()), "detail": "high"}}), 400),
    "an impossible n": (CHAT, {"messages": [USER], "n": 0}, 400),
    "a negative seed": (CHAT, {"messages": [USER], "seed": -1}, 400),
    "a modality that isn't one": (CHAT, {"messages": [USER], "modalities": ["sound"]}, 400),
    "no modality": (CHAT, {"messages": [USER], "modalities": []}, 400),
    "a bias on no id": (CHAT, {"messages": [USER], "logit_bias": {"cat": 1}}, 400),
    "a bias on an id beyond the vocabulary": (CHAT, {"messages": [USER], "logit_bias": {"99999999": 1}}, 400),
    "an empty stop": (CHAT, {"messages": [USER], "stop": [""]}, 400),
    "two lengths": (CHAT, {"messages": [USER], "max_tokens": 3, "max_completion_tokens": 4}, 400),
    "an option twice": (CHAT, {"messages": [USER], "seed": 3, "options": {"seed": 4}}, 400),
    "previews without a stream": (CHAT, {"messages": [USER], "partial_images": 2}, 400),
    "an option of another type": (DOCUMENTS, {"prompt": "Hi", "options": {"top_k": "many"}}, 400),
    "an impossible option": (DOCUMENTS, {"prompt": "Hi", "options": {"temperature": -1}}, 400),
    "an option that holds what isn't one": (DOCUMENTS, {"prompt": "Hi", "options": {"extras": {}}}, 400),
    "a model as a draft": (DOCUMENTS, {"prompt": "Hi", "options": {"decoding": {"name": "draft", "model": "/"}}}, 400),
    "a plugin": (DOCUMENTS, {"prompt": "Hi", "options": {"logits_processors": ["acme"]}}, 400),
    "another cache": (DOCUMENTS, {"prompt": "Hi", "options": {"cache_implementation": "int8"}}, 400),
    "too many beams": (DOCUMENTS, {"prompt": "Hi", "options": {"decoding": {"name": "beam", "num_beams": 99}}}, 400),
    "an unknown template": (DOCUMENTS, {"prompt": "Hi", "template": "nothing"}, 400),
    "an unknown modality": (DOCUMENTS, {"prompt": "Hi", "modality": "sound"}, 400),
    "neither prompt nor messages": (DOCUMENTS, {}, 400),
    "both prompt and messages": (DOCUMENTS, {"prompt": "Hi", "messages": [USER]}, 400),
    "too long a prompt": (DOCUMENTS, {"prompt": "room " * CONTEXT}, 400),
    "far too long a prompt": (DOCUMENTS, {"prompt": "a" * 100_000}, 400),
    "codes that the model hasn't": (DOCUMENTS, {"prompt": [{"type": "image", "codes": [9_999_999] * 16}]}, 400),
    "codes of half a picture": (DOCUMENTS, {"prompt": [{"type": "image", "codes": [1] * 8}]}, 400),
    "codes that are texts": (DOCUMENTS, {"prompt": [{"type": "image", "codes": ["a"] * 16}]}, 400),
    "fixed codes of another picture": (
        DOCUMENTS,
        {"prompt": "Hi", "modality": "image", "options": {"fixed_codes": [1]}},
        400,
    ),
    "ids that the model hasn't": (DOCUMENTS, {"prompt": "Hi", "written": [99_999_999]}, 400),
    "negative ids": (DOCUMENTS, {"prompt": "Hi", "written": [-5]}, 400),
    "no prompt of a picture": (IMAGES, {"prompt": ""}, 400),
    "a size that isn't drawn": (IMAGES, {"prompt": "a cat", "size": "1024x1024"}, 400),
    "a picture to fetch": (IMAGES, {"prompt": "a cat", "response_format": "url"}, 400),
    "no room for a picture": (IMAGES, {"prompt": "a cat", "options": {"max_new_tokens": 3}}, 400),
    "no picture": (TOKENS, {}, 400),
    "a text as a picture": (TOKENS, {"picture": {"type": "text", "text": "Hi"}}, 400),
    "codes beyond the codebook": (TOKENS, {"picture": {"type": "image", "codes": [1024] * 16}}, 400),
    "an edit of nothing": (EDITS, {"picture": url_of(picture()), "prompt": "a cat"}, 400),
    "an edit of everything twice": (
        EDITS,
        {"picture": url_of(picture()), "prompt": "a cat", "strength": 1, "cells": [1]},
        400,
    ),
    "cells outside of the picture": (EDITS, {"picture": url_of(picture()), "prompt": "a cat", "cells": [16]}, 400),
    "a mask of another size": (
        EDITS,
        {"picture": url_of(picture()), "prompt": "a cat", "mask": url_of(picture(side=4))},
        400,
    ),
    "an unknown path": ("/v1/embeddings", {"input": "Hi"}, 404),
    "an unknown model": (CHAT, {"messages": [USER], "model": "gpt"}, 404),
    "too large a body": (CHAT, chat({"type": "text", "text": "a" * BODY_LIMIT}), 413),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_an_error_that_says_why(name: str, served: Served) -> None:
    path, body, status = MALFORMED[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with served.client() as client:
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert "server failed" not in error["message"]
        assert client.get("/health").json() == {"status": "ok"}
    assert served.settled()


def test_only_json_is_read_and_only_by_post(served: Served) -> None:
    with served.client() as client:
        for kind in ("text/plain", "multipart/form-data", ""):
            answer = client.post(CHAT, content=b"{}", headers={"Content-Type": kind})
            assert answer.status_code == 415
        assert client.get(CHAT).status_code == 405
        assert client.get("/page/../pyproject.toml").status_code == 404
        assert client.get("/page/%2e%2e%2fserver.py").status_code == 404


def test_a_huge_body_is_refused_before_it_is_read(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode() + b"{" * 1000)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"request_too_large" in answer


def test_a_huge_body_without_a_length_is_read_up_to_the_limit(served: Served) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        answer = b""
        with contextlib.suppress(OSError):  # the server closed the connection
            for _ in range(1600):  # 100 MB
                connection.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):  # what was sent after the end may reset it
            answer = received(connection)
    assert sent < 20 * 2**20
    assert not answer or answer.startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(served: Served) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        )
        connection.sendall(head.encode() + b"{")
        assert received(connection).startswith(b"HTTP/1.1 408")
    assert 0.9 < time.monotonic() - start < 9


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def test_the_server_answers_to_its_own_names_alone(served: Served, alone: Chameleon) -> None:
    with served.client() as client:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST"):
            assert client.get("/health", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io"):
            assert client.get("/v1/models", headers={"Host": host}).status_code in (400, 403)
        assert (
            "access-control-allow-origin" not in client.get("/health", headers={"Origin": "http://a.example"}).headers
        )
    with serving(alone, allowed_hosts=("box.example",), cors_origins=("http://a.example",)) as other:
        with other.client() as client:
            assert client.get("/health", headers={"Host": "box.example"}).status_code == 200
            asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
            allowed = client.options(CHAT, headers=asked).headers
            assert allowed["access-control-allow-origin"] == "http://a.example"
            denied = client.options(CHAT, headers={**asked, "Origin": "http://b.example"})
            assert "access-control-allow-origin" not in denied.headers


def test_a_key_is_asked_for_everywhere_but_at_the_page(alone: Chameleon) -> None:
    with serving(alone, api_key="sesame") as locked:
        with locked.client() as client:
            for path in ("/v1/models", "/metrics", "/v1/models/small"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
                assert client.get(path, headers={"Authorization": "Bearer sesam"}).status_code == 401
                assert client.get(path, headers={"Authorization": "Basic sesame"}).status_code == 401
                assert client.get(path, headers={"Authorization": "Bearer sesame"}).status_code == 200
            assert client.post(CHAT, json={"messages": [USER]}).status_code == 401
            assert client.get("/health").status_code == 200
            assert client.get("/").status_code in (200, 404)


def test_what_happens_is_counted(served: Served) -> None:
    served.post(DOCUMENTS, prompt="a cat", modality="image")
    with served.client() as client:
        text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["chameleon_generated_pictures_total"]) >= 1
    assert float(values["chameleon_generated_tokens_total"]) >= 18
    assert float(values['chameleon_rows_total{reason="stop"}']) >= 1
    assert float(values['chameleon_http_requests_total{endpoint="documents",status="200"}']) >= 1
    assert float(values["chameleon_running_rows"]) == 0


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_every_format_are_read(kind: str, served: Served) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, format=kind)
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    assert len(served.post(TOKENS, picture=url).json()["codes"]) == 16
