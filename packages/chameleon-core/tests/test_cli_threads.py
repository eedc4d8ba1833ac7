"""How many threads the commands compute with: by the size of the model, unless the user says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from chameleon_core.cli.app import app
from chameleon_core.threads import MORE_NICE, SMALL_MODEL, VARIABLES, default_threads, give_way, threads_set_to


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch's own number, 2, and none in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threads_set_to(2):
        yield


def test_a_small_model_gets_one_thread_and_a_large_one_what_torch_has() -> None:
    assert default_threads(SMALL_MODEL) == 1
    assert default_threads(SMALL_MODEL + 1) is None
    assert default_threads(SMALL_MODEL, "meta") is None
    with threads_set_to(1):
        assert default_threads(SMALL_MODEL) is None


@pytest.mark.parametrize("name", VARIABLES)
def test_the_environment_is_the_user_s_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert default_threads(0) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_a_thread_gives_way_alone() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=give_way) as executor:
        found = executor.submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    assert found == min(before + MORE_NICE, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_was_set_is_restored() -> None:
    with threads_set_to(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_set_to(None):
        assert torch.get_num_threads() == 2


@pytest.fixture
def generating(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the command for a model of a size; return torch's number of threads meanwhile, and what was said."""

    def generate(num_bytes: int, *arguments: str) -> tuple[int, str]:
        numbers: list[int] = []

        def stream(*_: Any, **__: Any) -> Any:
            numbers.append(torch.get_num_threads())
            raise KeyError("enough")

        loaded = SimpleNamespace(stream=stream, model=SimpleNamespace(get_memory_footprint=lambda: num_bytes))
        monkeypatch.setattr("chameleon_core.Chameleon.from_pretrained", lambda *_, **__: loaded)
        result = CliRunner().invoke(app, ["generate", "folder", "Hello", *arguments])
        return numbers[0], result.stderr

    return generate


def test_generate_says_what_it_chose(generating: Callable[..., tuple[int, str]]) -> None:
    number, said = generating(SMALL_MODEL)
    assert number == 1
    assert "1 thread for a small model; --threads sets another number" in said
    number, said = generating(SMALL_MODEL + 1)
    assert number == 2
    assert "thread" not in said


def test_generate_does_what_it_is_told(generating: Callable[..., tuple[int, str]]) -> None:
    number, said = generating(SMALL_MODEL, "--threads", "2")
    assert number == 2
    assert "thread" not in said
