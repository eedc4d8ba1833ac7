"""Replicas answer requests with the ids that the pipeline writes alone; without Ray, which ``nox -s ray`` has."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from chameleon_core import Chameleon, ChameleonCoreError, ConfigError, Finished
from chameleon_core.errors import WorkerError
from chameleon_core.serving import FrontChameleon, ReplicaOptions, SharedChameleon
from chameleon_core.serving.replicas import answer, engine_class
from chameleon_core.threads import MORE_NICE
from chameleon_text import Document, Text, document_from_parts, document_to_parts

PICTURE = PIL.Image.fromarray(np.full((8, 8, 3), (200, 30, 40), dtype=np.uint8))
REQUESTS: list[dict[str, Any]] = [
    {
        "prompt": document_to_parts([PICTURE, Text("What is this?")]),
        "modality": "text",
        "template": "chat",
        "options": {"max_new_tokens": 10},
    },
    {"prompt": "Draw a cat", "modality": "image", "options": {"do_sample": True, "seed": 3}},
    {"prompt": "A story: ", "options": {"max_new_tokens": 30, "do_sample": True, "seed": 1, "modality": "interleaved"}},
]


@pytest.fixture(scope="module", params=[SharedChameleon, FrontChameleon])
def shared(folder: Path, request: pytest.FixtureRequest) -> Iterator[Chameleon]:
    found = request.param.from_pretrained(folder)
    yield found
    if isinstance(found, FrontChameleon):
        found.close()


def test_requests_at_the_same_time_are_answered_as_alone(shared: Chameleon, chameleon: Chameleon) -> None:
    wanted = json.loads(json.dumps(REQUESTS * 4))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda each: answer(shared, each, threading.Event()), wanted))
    for found, each in zip(answers, wanted, strict=True):
        options = {"modality": each["modality"]} if "modality" in each else {}
        prompt = each["prompt"] if isinstance(each["prompt"], str) else document_from_parts(each["prompt"])
        events = chameleon.stream(prompt, template=each.get("template", "completion"), **options, **each["options"])
        (end,) = [event for event in events if isinstance(event, Finished)]
        assert found["ids"] == list(end.new_ids)
        assert found["finish_reason"] == end.reason
        assert document_from_parts(found["document"]) == Document(
            segment if isinstance(segment, Text) else type(segment)(codes=segment.codes) for segment in end.document
        )
    drawn = PIL.Image.open(io.BytesIO(base64.b64decode(answers[1]["pictures"][0])))
    assert drawn.size == (8, 8)
    json.dumps(answers, allow_nan=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_drawing_gives_way_to_an_engine_in_another_process_alone(shared: Any) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nicer = MORE_NICE if isinstance(shared, FrontChameleon) else 0
    assert shared._drawer.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(own + nicer, 19)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "has no 'prompt'; it may have prompt, modality, template, options"),
        ({"prompt": "a", "seed": 1}, "has 'seed'"),
        ({"prompt": "a", "options": {"max_new_token": 3}}, "max_new_tokens"),
        ({"prompt": "a", "options": [1]}, "options of the request are a list"),
        ({"prompt": "a", "modality": "sound"}, "sound"),
        ({"prompt": "a", "template": "nothing"}, "nothing"),
        ({"prompt": 3}, "int"),
        ({"prompt": [{"type": "image", "path": "/etc/passwd"}]}, "allow_files"),
        ({"prompt": [{"type": "image", "base64": "AAAA"}]}, "picture"),
        ({"prompt": "a " * 400, "options": {"max_new_tokens": 10}}, "positions|context"),
    ],
)
def test_a_request_that_can_not_be_met_is_an_error_that_says_why(
    request_: dict[str, Any], words: str, shared: Chameleon
) -> None:
    with pytest.raises(ChameleonCoreError, match=words):
        answer(shared, request_, threading.Event())


def test_a_client_that_goes_away_stops_its_request(shared: Chameleon) -> None:
    stop = threading.Event()
    stop.set()
    found = answer(shared, {"prompt": "A cat", "modality": "text"}, stop)
    assert found["ids"] == []


def test_a_pipeline_runs_no_more_rows_than_it_is_told(folder: Path, chameleon: Chameleon) -> None:
    shared = SharedChameleon.from_pretrained(folder)
    shared.limit(max_rows=2, max_positions=600)
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, shared.shared.engine.num_running)
        return False

    options: dict[str, Any] = {"modality": "text", "max_new_tokens": 12, "do_sample": True, "seed": 5}
    found = shared.generate_batch(["A cat"] * 6, should_stop=watch, **options)
    assert found == chameleon.generate_batch(["A cat"] * 6, **options)
    assert most == 2
    with pytest.raises(ChameleonCoreError, match="max_rows"):
        shared.limit(max_rows=0)


def test_what_is_in_front_of_an_engine_has_everything_but_the_weights(folder: Path, chameleon: Chameleon) -> None:
    front = FrontChameleon.from_pretrained(folder, bounds={"max_rows": 2}, threads=1, compile=False)
    try:
        assert (front.layout.num_codes, front.model.config) == (chameleon.layout.num_codes, front.shared.facts.config)
        assert front.model.generation_options == front.shared.facts.generation_options
        assert "in a process of its own" in repr(front)
        assert repr(front).startswith("FrontChameleon(")
        options: dict[str, Any] = {"modality": "text", "max_new_tokens": 12, "do_sample": True, "seed": 5}
        assert front.generate_batch([[PICTURE, "A cat"]] * 4, **options) == chameleon.generate_batch(
            [[PICTURE, "A cat"]] * 4, **options
        )
        for call in (lambda: front.to("cpu"), lambda: front.save_pretrained(folder / "copy")):
            with pytest.raises(ConfigError, match="the engine's process"):
                call()
    finally:
        front.close()
    assert not front.is_alive
    with pytest.raises(WorkerError, match="has ended, with exit code 0"):
        front.draw("A cat")


def test_what_is_in_front_may_be_given(folder: Path, chameleon: Chameleon) -> None:
    front = FrontChameleon.from_pretrained(
        folder, image_tokenizer=chameleon.image_tokenizer, processor=chameleon.processor
    )
    try:
        assert front.image_tokenizer is chameleon.image_tokenizer
        assert front.processor is chameleon.processor
        assert front.draw("A cat", seed=2) == chameleon.draw("A cat", seed=2)
    finally:
        front.close()
    with pytest.raises(ConfigError, match="leave output_loading_info out"):
        FrontChameleon.from_pretrained(folder, output_loading_info=True)
    with pytest.raises(ConfigError, match="processes that torchrun has started"):
        FrontChameleon.from_pretrained(folder, tensor_parallel=2)


def test_arguments_of_the_command_are_options() -> None:
    options = ReplicaOptions.from_texts(
        {"model": "7", "replicas": "2", "gpus": "0.5", "engine_options": '{"dtype": "bfloat16"}'}
    )
    assert (options.model, options.replicas, options.gpus) == ("7", 2, 0.5)
    assert options.engine_options == {"dtype": "bfloat16"}
    for arguments, words in (
        ({"model": "a", "replicas": "many"}, "replicas"),
        ({"model": "a", "replicas": "0"}, "replicas"),
        ({"model": "a", "replica": "2"}, "Did you mean 'replicas'"),
        ({"replicas": "2"}, "replicas need a model"),
    ):
        with pytest.raises(ConfigError, match=words):
            ReplicaOptions.from_texts(arguments)


def test_an_engine_is_named_by_its_class() -> None:
    assert engine_class("chameleon_core:Chameleon") is Chameleon
    for name in ("nothing_here:Class", "chameleon_core:Nothing", "chameleon_core", ":"):
        with pytest.raises(ConfigError, match="Expected a class as module:name"):
            engine_class(name)
