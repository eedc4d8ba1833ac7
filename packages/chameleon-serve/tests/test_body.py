"""Bodies become requests, and what is wrong with one is named by its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chameleon_serve.body import parse_request
from chameleon_serve.errors import RequestError
from chameleon_serve.guard import host_name
from chameleon_serve.requests import ChatRequest, DocumentRequest

USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": [USER], "flavour": 1}, "flavour", "unknown_parameter"),
        ({"messages": [USER], "stream_options": {"often": True}}, "stream_options.often", "unknown_parameter"),
        ({}, "messages", "missing_required_parameter"),
        ({"messages": [USER], "n": "two"}, "n", "invalid_value"),
        ({"messages": [USER], "top_p": 0}, "top_p", "invalid_value"),
        ({"messages": [USER], "modalities": ["text", "sound"]}, "modalities[1]", "invalid_value"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_value"),
        ([], None, "invalid_type"),
    ],
)
def test_the_field_that_is_wrong_is_named(body: Any, param: str | None, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(json.dumps(body).encode(), ChatRequest)
    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"options": {"a": ' + b"[" * 100_000, b'{"prompt": "\\ud800"}', b'{"n": NaN}']
)
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"JSON|too deep") as caught:
        parse_request(body, DocumentRequest)
    assert caught.value.code == "invalid_json"


def test_null_is_what_isn_t_given() -> None:
    body = parse_request(json.dumps({"messages": [USER], "n": None, "stop": None, "seed": None}).encode(), ChatRequest)
    assert (body.n, body.stop, body.seed) == (None, None, None)


def test_a_host_is_a_name_without_its_port() -> None:
    names = {"localhost:80": "localhost", "[::1]:80": "::1", "[::1]": "::1", "A.example": "a.example", "": ""}
    assert {value: host_name(value) for value in names} == names
