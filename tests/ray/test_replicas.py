"""Replicas on Ray Serve answer over HTTP with the ids that the pipeline writes alone."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.integration.test_serving import REQUESTS

import ray
from chameleon_core import Chameleon
from chameleon_core.demo import make_chameleon
from chameleon_core.serving import app
from chameleon_core.serving.replicas import answer
from ray import serve

# On a busy machine Serve takes its proxy for dead before it has started. What Ray starts reads this.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "120")

ADDRESS = "http://127.0.0.1:8765/"


@pytest.fixture(scope="module")
def chameleon() -> Chameleon:
    return make_chameleon(resolution=8, context_length=256)


@pytest.fixture(scope="module", autouse=True)
def replicas(chameleon: Chameleon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("model")
    chameleon.save_pretrained(folder)
    ray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": 8765})
    serve.run(app({"model": str(folder), "replicas": "2", "cpus": "0.5"}))
    yield
    serve.shutdown()
    ray.shutdown()


def post(wanted: Any) -> tuple[int, Any]:
    data = wanted if isinstance(wanted, bytes) else json.dumps(wanted).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(ADDRESS, data=data), timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_requests_are_answered_as_alone(chameleon: Chameleon) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(post, REQUESTS * 4))
    for (status, found), wanted in zip(answers, REQUESTS * 4, strict=True):
        assert status == 200, found
        assert found == answer(chameleon, wanted, threading.Event())


def test_what_can_not_be_met_has_the_status_400_and_others_are_answered() -> None:
    for wanted, words in (({"prompt": 3}, "int"), (b"{", "not valid JSON"), ({}, "has no 'prompt'")):
        status, found = post(wanted)
        assert status == 400
        assert words in found["error"]
    assert post(REQUESTS[0])[0] == 200
