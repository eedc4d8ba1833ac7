"""The order of a run's samples, its log, and the names that these had before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_vq import training
from chameleon_vq.training import BatchOrder, DivergenceError, TrainingLog, checkpoints, pictures, read_log, trainer

# What version 2026.11.0 drew.
GOLDEN_TEN = [[4, 6, 2, 7], [3, 5, 9, 0], [8, 1, 5, 1], [6, 3, 4, 8]]
GOLDEN_THREE = [[0, 2, 1, 0, 2, 1, 2, 0], [1, 2, 1, 0, 2, 1, 0, 1]]


def test_a_seed_draws_the_batches_that_it_always_drew() -> None:
    """Runs that were interrupted with another version resume with the batches that they lack."""
    order = BatchOrder(10, batch_size=4, seed=0)
    assert [order.batch(step) for step in range(4)] == GOLDEN_TEN
    order = BatchOrder(3, batch_size=8, seed=7)
    assert [order.batch(step) for step in range(2)] == GOLDEN_THREE


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_every_sample_occurs_once_in_a_pass(num_samples: int, batch_size: int, seed: int) -> None:
    order = BatchOrder(num_samples, batch_size=batch_size, seed=seed)
    drawn = [index for step in range(num_samples) for index in order.batch(step)]
    assert Counter(drawn) == dict.fromkeys(range(num_samples), batch_size)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    order = BatchOrder(10, batch_size=4, seed=0)
    later = order.batch(5)
    assert BatchOrder(10, batch_size=4, seed=0).batch(5) == later
    assert [order.batch(0), order.batch(5)] == [BatchOrder(10, batch_size=4, seed=0).batch(0), later]


def test_a_log_keeps_the_entries_of_the_steps_that_are_done(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 0.5})
    assert path.read_text() == "".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in (1, 2, 3))
    resumed = TrainingLog(path, steps_done=2)
    resumed.append({"step": 3, "loss": 0.25})
    assert resumed.entries == read_log(path)
    assert [entry["loss"] for entry in read_log(path)] == [0.5, 0.5, 0.25]
    assert TrainingLog(path).entries == read_log(path) == []


def test_a_log_without_a_path_writes_nothing() -> None:
    log = TrainingLog(None)
    log.append({"step": 1})
    assert log.entries == [{"step": 1}]


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        (training, "DivergedError", DivergenceError),
        (trainer, "DivergedError", DivergenceError),
        (checkpoints, "read_log", read_log),
        (checkpoints, "LOG", "log.jsonl"),
        (checkpoints, "CHECKPOINT", "checkpoint.pt"),
    ],
)
def test_an_old_name_warns_and_is_the_new_thing(module: Any, name: str, new: object) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{name} is (deprecated; use .*|chameleon_vq\..* now)"):
        assert getattr(module, name) == new
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_the_old_classes_work_as_they_did(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"Order is deprecated; use .*BatchOrder"):
        order = pictures.Order(10, 4, 0)
    assert order.indices(1) == BatchOrder(10, batch_size=4, seed=0).batch(1)
    with pytest.warns(DeprecationWarning, match=r"RunLog is deprecated; use .*TrainingLog"):
        log = checkpoints.RunLog(tmp_path / "log.jsonl", step=0)
    log.write({"step": 1})
    assert log.records == read_log(tmp_path / "log.jsonl") == [{"step": 1}]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pictures.nothing
