"""Options that can't be are refused, with the field; what opens files or loads models is no client's to ask for."""

from __future__ import annotations

from typing import Any

import pytest

from chameleon_core import ConfigError, MissingPackageError
from chameleon_serve import ServeOptions
from chameleon_serve.loading import load_pipeline
from chameleon_serve.refusals import always_refused, refused_options
from chameleon_serve.server import bind


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"port": 70_000}, r"port.*70000"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"engine": "other"}, "engine"),
        ({"model": ""}, "model is empty"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "two words"}, "api_key"),
        ({"threads": 0}, "threads"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServeOptions(**{"model": "emoji", **fields})


def test_a_model_is_called_by_the_last_part_of_its_name() -> None:
    assert ServeOptions(model="/models/chameleon-7b/").model_name == "chameleon-7b"
    assert ServeOptions(model="facebook/chameleon-7b").model_name == "chameleon-7b"
    assert ServeOptions(model="emoji", name="pictures").model_name == "pictures"


def test_a_loopback_address_is_known() -> None:
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "127.0.0.2": True, "0.0.0.0": False, "box": False}
    assert {host: ServeOptions(model="emoji", host=host).is_loopback for host in hosts} == hosts


def test_no_request_may_ask_for_more_rows_than_run() -> None:
    assert ServeOptions(model="emoji", max_rows=3).max_rows_per_request == 3


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    with bind(ServeOptions(model="emoji", port=0)) as first:
        first.listen()
        with pytest.raises(ConfigError, match="Choose another --port"):
            bind(ServeOptions(model="emoji", port=first.getsockname()[1]))


def test_what_vllm_can_not_bound_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="max_positions"):
        load_pipeline(ServeOptions(model="emoji", engine="vllm", max_positions=100))


def test_without_vllm_its_engine_is_an_error_that_says_how_to_install_it() -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises((MissingPackageError, ConfigError), match="vllm"):
            load_pipeline(ServeOptions(model="emoji", engine="vllm"))


@pytest.mark.parametrize(
    ("name", "value", "engine", "words"),
    [
        ("decoding", {"name": "draft", "model": "/etc"}, "core", "draft"),
        ("decoding", "acme", "core", "acme"),
        ("decoding", "jacobi", "vllm", "vLLM"),
        ("decoding", {"name": "beam", "num_beams": 1000}, "core", "1000"),
        ("logits_processors", [{"name": "acme", "file": "/etc/passwd"}], "core", "acme"),
        ("cache_implementation", "int8", "core", "the server's"),
        ("forbidden_ids", list(range(5000)), "core", "5,000"),
    ],
)
def test_what_no_client_may_ask_for_has_a_reason(name: str, value: Any, engine: str, words: str) -> None:
    reason = refused_options(name, value, engine)
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoding", "jacobi"),
        ("decoding", {"name": "beam", "num_beams": 4}),
        ("logits_processors", ["top-k", {"name": "top-p", "p": 0.5}]),
        ("fixed_codes", [None] * 5000),
        ("temperature", 0.5),
    ],
)
def test_what_is_harmless_is_taken(name: str, value: Any) -> None:
    assert refused_options(name, value, "core") is None


def test_the_description_names_what_an_engine_has_not() -> None:
    assert set(always_refused("core")) == {"cache_implementation"}
    assert set(always_refused("vllm")) == {"cache_implementation", "decoding"}
