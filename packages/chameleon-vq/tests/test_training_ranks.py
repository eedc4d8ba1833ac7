"""Several ranks train the image tokenizer of one process. This file is also the program that they run, under torchrun.

``nox -s ranks`` runs the jobs for 200 steps, and with four ranks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, Codebook, ConfigError
from chameleon_vq.training import TensorPictures, TrainingOptions, VQTrainer, initialize, read_log
from chameleon_vq.training.ranks import Ranks

CONFIG: dict[str, Any] = {
    "resolution": 16,
    "base_channels": 8,
    "channel_multiplier": (1, 1),
    "num_res_blocks": 1,
    "latent_channels": 8,
    "embed_dim": 4,
    "num_embeddings": 32,
    "attn_type": "none",
    "norm_num_groups": 4,
    "quantizer": "ema",
}
OPTIONS: dict[str, Any] = {
    "steps": 8,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "continuous_steps": 2,
    "kmeans_pictures": 8,
    "revive_every": 3,
    "revive_until": 1.0,
    "log_every": 1,
    "validate_every": 4,
    "checkpoint_every": 3,
}
# What each job changes: fields of the config and of the options.
JOBS: dict[str, dict[str, Any]] = {
    "ema": {},
    # Most of the codes are dead until they are revived.
    "dead codes": {"config": {"num_embeddings": 256}, "options": {"revive_every": 2, "kmeans_pictures": 0}},
    "gradient": {"config": {"quantizer": "codebook"}, "options": {"weight_decay": 0.1}},
    "residual": {"config": {"quantizer": "residual", "quantizer_options": {"num_quantizers": 2}}},
    # At the default temperature of 0.01, training doubles a difference in nearly every step.
    "lfq": {"config": {"quantizer": "lfq", "embed_dim": 5, "quantizer_options": {"temperature": 1.0}}},
    "discriminator": {
        "options": {
            "discriminator_weight": 0.5,
            "discriminator_start": 3,
            "discriminator_channels": 8,
            "discriminator_layers": 1,
        },
        "perceptual": True,
    },
}
LEVELS = {"num_quantizers": 3, "quantizer_dropout": 0.9}
DROPOUT: dict[str, Any] = {
    "config": {"dropout": 0.1, "quantizer": "residual", "quantizer_options": {**LEVELS, "update": "gradient"}},
}


class Edges(nn.Module):
    """A perceptual loss for each picture."""

    def forward(self, drawn_BCHW: Tensor, real_BCHW: Tensor) -> Tensor:
        return (drawn_BCHW.diff(dim=3) - real_BCHW.diff(dim=3)).square().mean(dim=(1, 2, 3))


class Plain:
    """Pictures whose source can't read a part of a batch."""

    def __init__(self, pictures: TensorPictures) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        return self._pictures.pixels(indices, random)


class StoppedError(Exception):
    """Stands for anything that ends a process."""


class Stopping(Plain):
    """Pictures whose source ends the process, or sends a signal to one rank, before the given number of batches."""

    def __init__(self, pictures: TensorPictures, *, batches: int, rank: int = 0, number: int | None = None) -> None:
        super().__init__(pictures)
        self._left = batches if int(os.environ.get("RANK", "0")) == rank else -1
        self._number = number

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        self._left -= 1
        if self._left == 0:
            if self._number is None:
                raise StoppedError
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), self._number)
        return super().pixels(indices, random)


class Alone(Codebook):
    """A codebook that each process moves by its own latents."""

    def forward(self, latents_BDhw: Tensor) -> Any:
        if self.training:
            with torch.no_grad():
                self.embedding.weight += latents_BDhw.mean()
        return super().forward(latents_BDhw)


def pixels() -> Tensor:
    """Ten pictures of two colours each, split at a random column."""
    random = np.random.default_rng(0)
    pictures_BHWC = np.empty((10, 16, 16, 3), np.float32)
    for picture_HWC in pictures_BHWC:
        picture_HWC[:] = random.uniform(-1, 1, 3)
        picture_HWC[:, random.integers(4, 12) :] = random.uniform(-1, 1, 3)
    return torch.from_numpy(pictures_BHWC).permute(0, 3, 1, 2).contiguous()


class Double(TensorPictures):
    """Pictures in float64, in which rounding is all that the order of additions changes."""

    def part(self, indices: Sequence[int], random: np.random.Generator, own: slice) -> Tensor:
        return super().part(indices, random, own).double()


def make_trainer(job: Mapping[str, Any], folder: Path) -> VQTrainer:
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # all ranks have the first one's weights
    model = ChameleonVQVAE(ChameleonVQVAEConfig(**{**CONFIG, **job.get("config", {})})).double()
    initialize(model)
    if job.get("alone"):
        model.quantize = Alone(32, 4).double()
    options = TrainingOptions(**{**OPTIONS, **job.get("options", {})})
    return VQTrainer(model, options, folder=folder, perceptual=Edges() if job.get("perceptual") else None)


def train(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job to its end: its entries of the log and its weights after the last step."""
    trainer = make_trainer(job, folder)
    pictures: Any = Double(pixels(), mirror=True)
    if "stopping" in job:
        pictures = Stopping(pictures, **job["stopping"])
    elif job.get("plain"):
        pictures = Plain(pictures)
    validation_BCHW = pixels()[:5].double()
    log = trainer.fit(pictures, validation_BCHW=validation_BCHW)
    return {"log": log, "weights": trainer.model.state_dict()}


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


def main(folder: Path) -> None:
    """Run the jobs of a folder, as one of several ranks."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        if (folder / name / "result.pt").exists():  # before a restart
            continue
        (folder / name).mkdir(exist_ok=True)
        try:
            result = train(job, folder / name)
        except (KeyboardInterrupt, SystemExit, ConfigError) as error:
            result = {"ended": repr(error)}
        results: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(results, result)
        for other in results[1:]:
            assert_same_run(other, result, exactly=True)
        if dist.get_rank() == 0:
            torch.save(result, folder / name / "result.pt")
        dist.barrier()
    dist.destroy_process_group()


def assert_same_run(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, exactly: bool = False, tolerance: float = 1e-12
) -> None:
    """Check that a run differs from another only by the order in which numbers were added, or not at all.

    ``tolerance`` is that of the weights, in float64: a few steps multiply its rounding, 1e-16, little.
    """
    assert found.keys() == expected.keys()
    if "ended" in expected:
        assert found == expected
        return
    for name, tensor in expected["weights"].items():
        if exactly:
            assert torch.equal(found["weights"][name], tensor), name
        else:
            torch.testing.assert_close(found["weights"][name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    for line, other in zip(found["log"], expected["log"], strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - {"seconds"}:
            # Losses are computed in float32, and that of the generator may be near 0.
            allowed = 0 if exactly else 1e-6
            assert line[key] == pytest.approx(other[key], rel=allowed, abs=allowed), (line["step"], key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, dict[str, Any]]:
    """What two ranks make of all jobs, in one start."""
    with pytest.raises(StoppedError):
        train({"stopping": {"batches": 7}}, folder / "one-then-two")
    jobs = {
        **JOBS,
        "plain": {"plain": True},
        "one-then-two": {},
        "two-then-one": {"stopping": {"batches": 7, "rank": 1, "number": signal.SIGTERM}},
        "alone": {"alone": True},
        "indivisible": {"options": {"batch_size": 5}},
        "without pictures": {"config": {**DROPOUT["config"], "quantizer_options": LEVELS}},
        "undisturbed": DROPOUT,
        "killed": {**DROPOUT, "stopping": {"batches": 9, "rank": 1, "number": signal.SIGKILL}},
    }
    return torchrun(2, folder, jobs, max_restarts=1)


@pytest.mark.parametrize("name", JOBS)
def test_ranks_train_as_one_process_does(two_ranks: dict[str, dict[str, Any]], tmp_path: Path, name: str) -> None:
    assert_same_run(two_ranks[name], train(JOBS[name], tmp_path))


def test_ranks_revive_the_dead_codes_of_one_process(two_ranks: dict[str, dict[str, Any]]) -> None:
    usages = [line["codebook_usage"] for line in two_ranks["dead codes"]["log"] if "codebook_usage" in line]
    assert usages[0] < 0.2 < 0.4 < usages[-1]


def test_a_source_without_parts_gives_the_same_run(two_ranks: dict[str, dict[str, Any]]) -> None:
    assert_same_run(two_ranks["plain"], two_ranks["ema"], exactly=True)


def test_a_run_of_one_process_resumes_with_two_ranks(two_ranks: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert_same_run(two_ranks["one-then-two"], train({}, tmp_path))


def test_a_signal_to_one_rank_saves_and_ends_all_and_one_process_resumes(
    two_ranks: dict[str, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    assert two_ranks["two-then-one"] == {"ended": "SystemExit(143)"}
    assert torch.load(folder / "two-then-one" / "checkpoint.pt")["step"] == 5  # two batches were for k-means
    assert_same_run(train({}, folder / "two-then-one"), train({}, tmp_path))


def test_a_killed_rank_is_restarted_and_the_run_ends_with_the_same_weights(
    two_ranks: dict[str, dict[str, Any]],
) -> None:
    assert_same_run(two_ranks["killed"], two_ranks["undisturbed"], exactly=True)


def test_levels_that_no_picture_of_a_rank_uses_wait_for_no_one(two_ranks: dict[str, dict[str, Any]]) -> None:
    assert two_ranks["without pictures"]["log"][-1]["step"] == OPTIONS["steps"]


@pytest.mark.usefixtures("two_ranks")
def test_the_first_rank_alone_writes(folder: Path) -> None:
    names = {path.name for path in (folder / "ema").iterdir()}
    assert names == {"checkpoint.pt", "log.jsonl", "result.pt"}
    steps = [line["step"] for line in read_log(folder / "ema" / "log.jsonl") if "loss" in line]
    assert steps == list(range(1, OPTIONS["steps"] + 1))


def test_what_ranks_cannot_share_is_refused(two_ranks: dict[str, dict[str, Any]]) -> None:
    assert "batch_size is 5, which 2 processes can't share evenly" in two_ranks["indivisible"]["ended"]
    assert "the vector quantizer 'ema' is no longer the same in all 2 processes" in two_ranks["alone"]["ended"]


@given(count=st.integers(1, 20), number=st.integers(0, 100))
def test_shares_are_all_there_is_in_order(count: int, number: int) -> None:
    ranks = [Ranks(torch.device("cpu"), rank, count) for rank in range(count)]
    shares = [list(range(number))[each.share(number)] for each in ranks]
    assert [each for share in shares for each in share] == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
