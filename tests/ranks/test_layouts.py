"""Two and four ranks, in each layout, train as one process does, and resume what another number of ranks has saved.

``nox -s ranks`` runs this; chameleon-core's own tests have a short form.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import program

ranked = program("chameleon-core")

STEPS = 50
LAYOUTS = [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
"""Ranks, and how many of them divide each layer."""


def job(tensor_parallel: int, **changes: Any) -> dict[str, Any]:
    options = {"steps": STEPS, "evaluate_every": 0, "save_every": 7, "tensor_parallel": tensor_parallel}
    return {"options": options, **changes}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    run: Mapping[str, Any] = ranked.train(job(1), tmp_path_factory.mktemp("one"))
    return run


@pytest.mark.parametrize(("count", "tensor_parallel"), LAYOUTS)
def test_every_layout_has_the_curve_of_one_process(
    one_process: Mapping[str, Any], tmp_path: Path, count: int, tensor_parallel: int
) -> None:
    found = ranked.torchrun(count, tmp_path, {"run": job(tensor_parallel)})["run"]
    ranked.assert_same_run(found, one_process)


def test_a_run_of_four_ranks_resumes_with_two_and_with_one(one_process: Mapping[str, Any], tmp_path: Path) -> None:
    ranked.torchrun(4, tmp_path, {"run": job(2, stop=[20])})
    for name in ("by two", "by one"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        (tmp_path / name / "result.pt").unlink()
    ranked.assert_same_run(ranked.torchrun(2, tmp_path, {"by two": job(1)})["by two"], one_process)
    ranked.assert_same_run(ranked.train(job(1), tmp_path / "by one"), one_process)


def test_a_rank_killed_at_any_step_changes_nothing(tmp_path: Path) -> None:
    step, rank = random.randrange(1, STEPS), random.randrange(4)
    dropped = job(2, dtype="float32")
    dropped["options"]["dropout"] = 0.1
    jobs = {"undisturbed": dropped, "killed": {**dropped, "kill": [rank, step]}}
    runs = ranked.torchrun(4, tmp_path, jobs, max_restarts=1)
    found, expected = runs["killed"]["weights"], runs["undisturbed"]["weights"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), (rank, step)
