"""The server in front of chameleon-vllm's pipeline, whose engine is replaced by one of requests on our own model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chameleon_core import Chameleon, ConfigError, Finished, MissingPackageError
from chameleon_serve import ServeOptions
from chameleon_serve.loading import load_pipeline
from chameleon_vllm import VLLMChameleon
from chameleon_vllm.row_parts import Signals
from chameleon_vllm.runner import Runner

from .served import Served, serving, small_pipeline

DOCUMENTS = "/v1/documents"
ENGINE = Path(__file__).parents[2] / "packages" / "chameleon-vllm" / "tests" / "model_engine.py"


@pytest.fixture(scope="module")
def alone() -> Chameleon:
    return small_pipeline()


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as found:
        yield found


@pytest.fixture(scope="module")
def served(alone: Chameleon, monkeypatch_module: pytest.MonkeyPatch) -> Iterator[Served]:
    spec = importlib.util.spec_from_file_location("model_engine_of_vllm", ENGINE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch_module.setitem(sys.modules, spec.name, module)  # which dataclasses look up
    spec.loader.exec_module(module)
    pipeline = VLLMChameleon(alone.model, alone.processor, alone.image_tokenizer)
    pipeline.runner = Runner(module.ModelEngine(alone.model), Signals.of(pipeline.layout))
    with serving(alone, shared=pipeline, engine="vllm") as found:
        yield found


def test_requests_at_once_are_answered_as_alone(served: Served, alone: Chameleon) -> None:
    bodies: list[dict[str, Any]] = [
        {
            "prompt": f"Request {number}",
            "modality": ("text", "image")[number % 2],
            "options": {"do_sample": True, "seed": number, "guidance_text": 1.0 + number % 4}
            | ({} if number % 2 else {"max_new_tokens": 12}),
        }
        for number in range(8)
    ]
    with ThreadPoolExecutor(8) as pool, served.client() as client:
        answers = list(pool.map(lambda body: client.post(DOCUMENTS, json=body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        events = alone.stream(body["prompt"], modality=body["modality"], template="chat", **body["options"])
        (end,) = [event for event in events if isinstance(event, Finished)]
        assert answer.json()["rows"][0]["ids"] == list(end.new_ids)


@pytest.mark.parametrize("option", ["decoding", "cache_implementation"])
def test_what_vllm_can_not_do_is_refused_by_name(option: str, served: Served) -> None:
    value = {"decoding": "jacobi", "cache_implementation": "int8"}[option]
    answer = served.post(DOCUMENTS, prompt="Hi", options={option: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"options.{option}")
    with served.client() as client:
        described = client.get("/v1/models/small").json()["chameleon"]
    assert described["engine"] == "vllm"
    assert option in described["refused_options"]


def test_what_only_the_toolkit_s_engine_knows_is_no_metric(served: Served) -> None:
    with served.client() as client:
        names = {line.split()[0] for line in client.get("/metrics").text.splitlines()}
    assert "chameleon_running_rows" in names
    assert "chameleon_cached_positions" not in names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_positions": 900}, "max_positions bounds the cache of the toolkit's engine"),
        ({"prefix_positions": 0}, "prefix_positions are kept by the toolkit's engine"),
        ({"prompt_chunk": 64}, "max_num_batched_tokens"),
        ({"engine_options": {"attn_implementation": "eager"}}, "attn_implementation isn't offered on vLLM"),
        ({"engine_options": {"device": "cuda"}}, "device isn't offered on vLLM"),
        ({"engine_options": {"quantization": "int8"}}, "'quantization' can't be given: its numbers are others"),
        ({"engine_options": {"speculative_config": {}}}, "'speculative_config' can't be given"),
        ({"engine_options": {"max_num_seq": 8}}, "Did you mean 'max_num_seqs'?"),
    ],
)
def test_options_that_mean_nothing_to_vllm_are_refused_before_it_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(ServeOptions(model="small", engine="vllm", **options))
    assert words in str(caught.value)


def test_each_row_has_room_for_the_requests_of_a_guided_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "chameleon_vllm.vllm_engine", ModuleType("vllm_engine"))
    monkeypatch.setattr(VLLMChameleon, "from_pretrained", lambda model, **given: found.append(given))
    for options in ({}, {"max_num_seqs": 7, "dtype": "float32"}):
        load_pipeline(ServeOptions(model="small", engine="vllm", max_rows=4, engine_options=options))
    assert found == [{"max_num_seqs": 12}, {"max_num_seqs": 7, "dtype": "float32"}]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_server_says_what_to_install() -> None:
    with pytest.raises(MissingPackageError, match=r"pip install \"./packages/chameleon-vllm\[vllm\]\""):
        load_pipeline(ServeOptions(model="small", engine="vllm"))
