"""Several ranks train as one process does. This file is also the program that they run, under torchrun with gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from chameleon_core import ChameleonForConditionalGeneration, ConfigError, WeightsError
from chameleon_core.model.tensor_parallel import check_divides, parallelize
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import TokenDocument, Trainer, TrainingOptions, read_log, train_picture_rows

BASE: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "sequence_length": 32,
    "save_every": 2,
    "evaluate_every": 3,
    "dropout": 0.0,
}
VARIANT = {"num_key_value_heads": 2, "swin_norm": True, "tie_word_embeddings": True, "attention_bias": True}
# What each job changes: fields of the config and of the options, and what else is done.
JOBS: dict[str, dict[str, Any]] = {
    "plain": {"refused": True},
    "variant": {
        "config": VARIANT,
        "options": {"micro_batch_size": 2, "gradient_checkpointing": True, "rows": "packed", "picture_weight": 0.5},
    },
    # No number of ranks divides the rows of any of its tensors evenly.
    "uneven": {
        "config": {
            "vocab_size": 67,
            "hidden_size": 30,
            "intermediate_size": 47,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
        }
    },
    "rows": {"picture_rows": True},
    # Of equal lengths, because DTensor plans each operation anew for each shape.
    "tensor": {"length": 12, "options": {"tensor_parallel": 2, "steps": 3}},
    "tensor variant": {
        "length": 12,
        "config": {**VARIANT, "mlp_bias": True},
        "options": {"tensor_parallel": 2, "steps": 2, "rows": "packed", "picture_weight": 0.5},
    },
}
DROPOUT = {"dtype": "float32", "options": {"dropout": 0.1, "steps": 9}}


def documents(count: int = 21, length: int | None = None) -> list[TokenDocument]:
    """Documents of all lengths, some of whose ids aren't targets, and one of whose first ids is padding."""
    random = np.random.default_rng(0)
    lengths = [length or 3 + index for index in range(count - 1)]
    plain = [TokenDocument.of(str(index), random.integers(0, 64, each).tolist()) for index, each in enumerate(lengths)]
    return [*plain, TokenDocument.with_answer("answer", [1, 4, 5, 6, 7, 8, 9, 10, 3, 11], separator_id=3)]


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def make_trainer(
    job: Mapping[str, Any], folder: Path, on_step: Callable[[int], None] | None = None
) -> tuple[ChameleonForConditionalGeneration, Trainer]:
    # In float64 what remains of the order of additions is that norms compute in float32.
    model = make_model(make_config(**job.get("config", {}))).to(getattr(torch, job.get("dtype", "float64")))
    if job.get("picture_rows"):
        train_picture_rows(model)
    changes = dict(job.get("options", {}))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # what ranks are compared with
        changes.pop("tensor_parallel", None)
    options = TrainingOptions(**{**BASE, **changes})
    trained, held_out = documents(length=job.get("length")), documents(5, job.get("length"))
    return model, Trainer(model, trained, options, folder, held_out=held_out, on_step=on_step)


def train(job: Mapping[str, Any], folder: Path, on_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Run a job to its end. Its gradients before the first step, its log and its weights after the last, all whole."""
    model, trainer = make_trainer(job, folder, on_step)
    trainer.compute_gradients([trainer.documents[index] for index in trainer.order.batch(0)])
    gradients = {name: whole(each.grad) for name, each in model.named_parameters() if each.requires_grad}
    trainer.optimizer.zero_grad()
    trainer.run(draw_curves=False)
    weights = {name: whole(each) for name, each in model.named_parameters()}
    if "refused" in job and dist.is_initialized():
        with pytest.raises(WeightsError, match="this process has a part of them"):
            model.save_pretrained(folder / "part")
        with pytest.raises(ConfigError, match="divided among ranks by another trainer"):
            Trainer(model, documents(), trainer.options, folder / "other")
        with pytest.raises(ConfigError, match=r"batch_size \(7\) must be a multiple of world_size \(2\)"):
            Trainer(model, documents(), trainer.options.replace(batch_size=7), folder / "other")
        with pytest.raises(ConfigError, match="compile=True is for a single process"):
            Trainer(model, documents(), trainer.options.replace(compile=True), folder / "other")
    if not job.get("picture_rows"):
        trainer.save_pretrained(folder / "model")
    return {"gradients": gradients, "weights": weights, "log": read_log(folder / "log.jsonl")}


def stop_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def kill_rank(rank: int, step: int) -> Callable[[int], None]:
    """Kill a rank after a step of the first start, as a machine that fails."""

    def on_step(done: int) -> None:
        if done == step and dist.get_rank() == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def signal_rank(rank: int, step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step and dist.get_rank() == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def torchrun(count: int, folder: Path, jobs: Mapping[str, Any], *, max_restarts: int = 0) -> dict[str, dict[str, Any]]:
    """Run jobs in a folder with several ranks; what each returned."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    arguments = ("--max-restarts", str(max_restarts), __file__, str(folder))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # A store that outlives the ranks gives those that are restarted the addresses of the ones before.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # gloo would look for the interface that the host's name stands for.
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[:5000]
    return {name: torch.load(folder / name / "result.pt") for name in jobs}


EVENTS: dict[str, Callable[..., Callable[[int], None]]] = {
    "stop": stop_at,
    "kill": kill_rank,
    "signal": signal_rank,
}
"""What happens to a job, with the arguments that it has."""


def main(folder: Path) -> None:
    """Run the jobs of a folder, as one of several ranks."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        if (folder / name / "result.pt").exists():  # before a restart
            continue
        on_step = next((make(*job[key]) for key, make in EVENTS.items() if key in job), None)
        try:
            result = train(job, folder / name, on_step)
        except (KeyboardInterrupt, SystemExit) as error:
            result = {"ended": type(error).__name__}
        dist.barrier()
        if dist.get_rank() == 0:
            torch.save(result, folder / name / "result.pt")
        dist.barrier()
    dist.destroy_process_group()


def assert_same_run(found: Mapping[str, Any], expected: Mapping[str, Any], *, tolerance: float = 1e-6) -> None:
    """Check that a run differs from another only by the order in which numbers were added."""
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        distance = torch.linalg.vector_norm(found["gradients"][name] - gradient) / torch.linalg.vector_norm(gradient)
        assert distance < tolerance, (name, distance)
    for line, other in zip(found["log"], expected["log"], strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - {"tokens_per_second"}:
            assert line[key] == pytest.approx(other[key], rel=tolerance), (line["step"], key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, dict[str, Any]]:
    """What two ranks make of all jobs, in one start."""
    with pytest.raises(KeyboardInterrupt):
        train({}, folder / "one-then-two", stop_at(4))
    jobs = {
        **JOBS,
        "one-then-two": {},
        "two-then-one": {"stop": [4]},
        "signalled": {"signal": [1, 3]},
        "undisturbed": DROPOUT,
        "killed": {**DROPOUT, "kill": [1, 7]},
    }
    return torchrun(2, folder, jobs, max_restarts=1)


@pytest.mark.parametrize("name", JOBS)
def test_ranks_train_as_one_process_does(two_ranks: dict[str, dict[str, Any]], tmp_path: Path, name: str) -> None:
    assert_same_run(two_ranks[name], train(JOBS[name], tmp_path))


def test_a_run_of_one_process_resumes_with_two_ranks(two_ranks: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert_same_run(two_ranks["one-then-two"], train({}, tmp_path))


def test_a_run_of_two_ranks_resumes_in_one_process(
    two_ranks: dict[str, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    assert two_ranks["two-then-one"] == {"ended": "KeyboardInterrupt"}
    names = {path.name.partition("-")[0] for path in (folder / "two-then-one" / "checkpoint").iterdir()}
    assert names == {"checkpoint.json", "shards"}
    assert_same_run(train({}, folder / "two-then-one"), train({}, tmp_path))
    names = {path.name.partition("-")[0] for path in (folder / "two-then-one" / "checkpoint").iterdir()}
    assert names == {"checkpoint.json", "weights", "state"}


def test_a_killed_rank_is_restarted_and_the_run_ends_with_the_same_weights(
    two_ranks: dict[str, dict[str, Any]],
) -> None:
    found, expected = two_ranks["killed"]["weights"], two_ranks["undisturbed"]["weights"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_signal_to_one_rank_saves_and_ends_all(two_ranks: dict[str, dict[str, Any]], folder: Path) -> None:
    assert two_ranks["signalled"] == {"ended": "SystemExit"}
    pointer = json.loads((folder / "signalled" / "checkpoint" / "checkpoint.json").read_text())
    assert pointer["progress"]["step"] == 3  # not one of those after which a run is saved anyway


def test_what_ranks_save_is_an_ordinary_folder(two_ranks: dict[str, dict[str, Any]], folder: Path) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(folder / "undisturbed" / "model")
    expected = two_ranks["undisturbed"]["weights"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.named_parameters())


@pytest.mark.usefixtures("two_ranks")
def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    (shards,) = (folder / "undisturbed" / "checkpoint").glob("shards-*")
    (checkpoint / shards.name).mkdir(parents=True)
    for path in (shards.parent / "checkpoint.json", *shards.iterdir()):
        (checkpoint / path.relative_to(shards.parent)).write_bytes(path.read_bytes())
    min((checkpoint / shards.name).iterdir()).unlink()
    with pytest.raises(WeightsError, match=r"is the state of another model, or of other files: .* lacks the part"):
        train(DROPOUT, tmp_path)


def test_what_ranks_cannot_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel is 2, which doesn't divide the number of ranks, 1"):
        Trainer(make_model(), documents(), TrainingOptions(**BASE, tensor_parallel=2), tmp_path)
    with pytest.raises(ConfigError, match=r"4 ranks can't divide the layers: num_key_value_heads is 2\. Use a number"):
        check_divides(make_config(num_key_value_heads=2), 4)
    with pytest.raises(ConfigError, match=r"attention_dropout is 0\.1"):
        check_divides(make_config(attention_dropout=0.1), 2)
    model = make_model()
    train_picture_rows(model)
    mesh: Any = SimpleNamespace(size=lambda: 2)
    with pytest.raises(ConfigError, match="the layer lm_head is a ParametrizedLinear, which can't be divided"):
        parallelize(model, mesh)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
