"""Two and four ranks train the image tokenizer of one process, over 200 steps.

``nox -s ranks`` runs this; chameleon-vq's own tests have a short form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from programs import program

ranked = program("chameleon-vq")

STEPS = 200
CHANGES = {"steps": STEPS, "validate_every": STEPS, "checkpoint_every": 70}
JOBS = {name: {**job, "options": {**job.get("options", {}), **CHANGES}} for name, job in ranked.JOBS.items()}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("one")
    return {name: ranked.train(job, folder / name) for name, job in JOBS.items()}


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    runs: Mapping[str, Any] = ranked.torchrun(request.param, tmp_path_factory.mktemp(f"of{request.param}"), JOBS)
    return runs


@pytest.mark.parametrize("name", JOBS)
def test_a_long_run_of_ranks_ends_as_one_of_one_process(
    one_process: Mapping[str, Any], several: Mapping[str, Any], name: str
) -> None:
    ranked.assert_same_run(several[name], one_process[name], tolerance=1e-6)
