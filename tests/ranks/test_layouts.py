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


def jobs(tensor_parallel: int) -> dict[str, dict[str, Any]]:
    everything = {**ranked.VARIANT, "mlp_bias": True, "num_key_value_heads": max(2, tensor_parallel)}
    few = {"tensor_parallel": tensor_parallel, "steps": 6}
    return {
        "float64": job(tensor_parallel),
        "float32": job(tensor_parallel, dtype="float32"),
        "bfloat16": {"dtype": "float32", "options": {**few, "precision": "bfloat16"}},
        # Documents of equal lengths, because DTensor plans each operation anew for each shape.
        "everything": {
            "config": everything,
            "length": 12,
            "options": {
                **few,
                "micro_batch_size": 1,
                "gradient_checkpointing": True,
                "rows": "packed",
                "picture_weight": 0.5,
                "gradient_clip": 0.1,
            },
        },
    }


TOLERANCES = {"float64": 1e-6, "everything": 1e-6, "float32": 1e-4, "bfloat16": 0.1}
"""Of gradients and of what is logged, relative. Norms and the log are float32 whatever the model.

In float32 50 steps multiply the rounding of 6e-8 by some hundreds; that of bfloat16 is 4e-3.
"""


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    run: Mapping[str, Any] = ranked.train(job(1), tmp_path_factory.mktemp("one"))
    return run


@pytest.mark.parametrize(("count", "tensor_parallel"), LAYOUTS)
def test_every_layout_has_the_curve_of_one_process(tmp_path: Path, count: int, tensor_parallel: int) -> None:
    found = ranked.torchrun(count, tmp_path, jobs(tensor_parallel))
    for name, expected in jobs(tensor_parallel).items():
        one = ranked.train(expected, tmp_path / f"{name} in one process")
        ranked.assert_same_run(found[name], one, tolerance=TOLERANCES[name])


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
