"""Two thousand pictures, one in a hundred poison, workers killed at random: here in processes, and by Ray Data."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.integration.captioned import POISON, content, keys, killing, png, processes, refused, write_folder, write_tar
from tests.integration.test_tokenization import workers

import ray
from chameleon_core import ModelNotFoundError
from chameleon_core.demo import make_chameleon
from chameleon_core.errors import WorkerError
from chameleon_core.tokenization import TokenizationOptions, tokenize_dataset
from chameleon_core.tokenization.documents import Tokenizers, UnitWriter
from chameleon_core.tokenization.on_ray import run_on_ray
from chameleon_core.tokenization.units import find_units

COUNT = 2000
BAD = sorted(random.Random(0).sample(range(COUNT), COUNT // 100))
IN_FOLDER = 1000
"""How many are in a folder; the others are in tar shards."""
PER_SHARD = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_chameleon(resolution=8, context_length=256).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_folder(path / "folder", IN_FOLDER, BAD)
    for start in range(IN_FOLDER, COUNT, PER_SHARD):
        numbers = range(start, start + PER_SHARD)
        files = [(number, (POISON[number % len(POISON)] if number in BAD else png)(number)) for number in numbers]
        write_tar(
            path / f"{start:05}.tar",
            [
                pair
                for number, data in files
                for pair in ((f"{number:05}.png", data), (f"{number:05}.txt", f"picture {number}".encode()))
            ],
        )
    return path


def key(number: int) -> str:
    if number < IN_FOLDER:
        return f"folder/{number:05}.png"
    return f"{number // PER_SHARD * PER_SHARD:05}.tar/{number:05}"


@pytest.fixture(scope="module")
def undisturbed(model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    tokenize_dataset(model, [source], output, workers=1, unit_size=100)
    return content(output)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actors() -> list[int]:
    """The processes of Ray Data's actors in the cluster that this process started."""
    own = set(processes(lambda parent, _: parent == os.getpid()))
    return processes(lambda parent, command: parent in own and command.startswith(b"ray::MapWorker"))


def check(output: Path, undisturbed: dict[str, bytes]) -> None:
    assert keys(output) == [key(number) for number in range(COUNT) if number not in BAD]
    assert list(refused(output)) == [key(number) for number in BAD]
    assert content(output) == undisturbed


def test_every_good_picture_is_there_once_whatever_dies(
    model: Path, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with killing(workers, kills=12, seed=1, pause=0.2) as killed:
        tokenize_dataset(model, [source], tmp_path, workers=2, unit_size=100)
    assert len(killed) >= 3
    check(tmp_path, undisturbed)


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", init)  # which looks for minutes
    with pytest.raises(WorkerError, match="there is no Ray cluster at 'auto'"):
        run_on_ray([], print, address="auto", workers=1, gpus=0.0, on_done=print)  # type: ignore[arg-type]


@pytest.mark.usefixtures("cluster")
def test_ray_does_the_same_whatever_dies(
    model: Path, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with killing(actors, kills=4, seed=2, pause=1.0) as killed:
        tokenize_dataset(model, [source], tmp_path, ray="local", workers=2, unit_size=100)
    assert killed
    check(tmp_path, undisturbed)


def test_a_job_on_ray_that_was_killed_is_resumed_by_any_number_of_workers(
    model: Path, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    code = f"""
import os, signal
import ray
from chameleon_core.tokenization import tokenize_dataset

def progress(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

ray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
tokenize_dataset(
    {str(model)!r}, [{str(source)!r}], {str(tmp_path)!r}, ray="local", workers=2, unit_size=100, progress=progress
)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == -signal.SIGKILL
    before = len(list((tmp_path / "units").glob("*.json")))
    assert before >= 5
    steps: list[int] = []
    tokenize_dataset(
        model, [source], tmp_path, workers=3, unit_size=100, progress=lambda done, total: steps.append(done)
    )
    assert before <= steps[0] < steps[-1] == 20
    check(tmp_path, undisturbed)
    tokenize_dataset(model, [source], tmp_path, workers=1, unit_size=100)
    check(tmp_path, undisturbed)


@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_work_arrives_as_it_was_raised(source: Path, tmp_path: Path) -> None:
    options = TokenizationOptions()
    units = list(enumerate(find_units([source], options).units))[:2]
    make = partial(UnitWriter, Tokenizers(str(tmp_path / "nothing")), tmp_path, options)
    with pytest.raises(ModelNotFoundError, match="nothing"):
        run_on_ray(units, make, address="local", workers=1, gpus=0.0, on_done=print)
