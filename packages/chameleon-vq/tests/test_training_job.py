"""A folder of pictures becomes an image tokenizer in one command, which continues where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAEConfig, ImageTokenizer
from chameleon_vq.training import PictureFiles, TrainingOptions, VQTrainer, read_log
from chameleon_vq.training_job import read_job, train_image_tokenizer

testing = pytest.importorskip("typer.testing")
app = pytest.importorskip("chameleon_vq.cli.app").app
field_options = pytest.importorskip("chameleon_vq.cli.field_options")
pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

COUNT = 14
SHAPE = (
    *("--resolution", "16", "--base-channels", "32", "--channel-multiplier", "1,1", "--num-res-blocks", "1"),
    *("--latent-channels", "8", "--embed-dim", "4", "--num-embeddings", "16", "--attn-type", "none"),
    *("--quantizer", "ema"),
)
RUN = (
    *("--steps", "12", "--batch-size", "4", "--learning-rate", "2e-3", "--warmup-steps", "2", "--revive-every", "4"),
    *("--kmeans-pictures", "8", "--log-every", "1", "--checkpoint-every", "4", "--validate-every", "6"),
)

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder that has pictures of two colours, and one file that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(COUNT):
        picture_HWC = np.empty((18, 20, 3), np.uint8)
        picture_HWC[:] = random.integers(0, 256, 3)
        picture_HWC[:, random.integers(4, 12) :] = random.integers(0, 256, 3)
        PIL.Image.fromarray(picture_HWC).save(tmp_path / "pictures" / f"{number:02}.png")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    return lambda *arguments: testing.CliRunner().invoke(app, arguments)


def test_a_folder_of_pictures_becomes_an_image_tokenizer(run: Run) -> None:
    done = run("train", "pictures", "--output", "out", *SHAPE, *RUN, "--held-out", "3", "--mirror", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    read = COUNT - result["held_out"]
    assert (result["folder"], result["pictures"], result["refused"]) == ("out/tokenizer", read, 1)
    (refused,) = map(json.loads, Path("out/refused.jsonl").read_text().splitlines())
    assert refused["key"] == "broken.png"

    entries = read_log("out/run/log.jsonl")
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])

    tokenizer = ImageTokenizer.from_pretrained("out/tokenizer")
    (codes_N,) = tokenizer.encode(["pictures/00.png"])
    assert codes_N.shape == (64,)
    assert codes_N.max() < 16
    assert result["figures"]["psnr"] == pytest.approx(entries[-1]["validation"]["psnr"], abs=1e-4)
    assert json.loads(Path("out/results.json").read_text())["figures"] == result["figures"]
    with PIL.Image.open("out/reconstructions.png") as sheet:
        assert sheet.size == (2 * (16 + 8 + 16 + 8), 2 * (16 + 20 + 8))
    with PIL.Image.open("out/curves.png") as curves:
        assert curves.format == "PNG"


def test_a_job_that_was_stopped_ends_with_the_same_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", "pictures", "-o", "whole", *SHAPE, *RUN).exit_code == 0

    step = VQTrainer._step

    def stop(trainer: VQTrainer, pixels_BCHW: torch.Tensor) -> dict[str, Any]:
        if trainer.step == 6:
            raise KeyboardInterrupt
        return step(trainer, pixels_BCHW)

    monkeypatch.setattr(VQTrainer, "_step", stop)
    stopped = run("train", "pictures", "-o", "parts", *SHAPE, *RUN)
    assert stopped.exit_code == 130
    assert "the same command with --resume continues" in stopped.stderr
    assert not Path("parts/tokenizer").exists()
    again = run("train", "pictures", "-o", "parts", *SHAPE, *RUN)
    assert again.exit_code == 1
    assert "has a job already" in again.stderr

    monkeypatch.setattr(VQTrainer, "_step", step)
    assert run("train", "pictures", "-o", "parts", "--resume").exit_code == 0
    assert Path("parts/results.json").read_text() == Path("whole/results.json").read_text()
    whole, parts = (ImageTokenizer.from_pretrained(f"{name}/tokenizer").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--resolution", "32"), "resolution 16, now 32"),
        (("--learning-rate", "1"), "learning_rate 0.002, now 1.0"),
        (("--held-out", "2"), "held_out 1, now 2"),
    ],
)
def test_a_job_continues_with_its_own_options_alone(run: Run, changes: tuple[str, ...], message: str) -> None:
    run("train", "pictures", "-o", "out", *SHAPE, *RUN, "--steps", "2", "--held-out", "1")
    resumed = run("train", "pictures", "-o", "out", "--resume", *changes)
    assert resumed.exit_code == 1
    assert message in resumed.stderr
    Path("pictures/03.png").unlink()
    assert "with other pictures" in run("train", "pictures", "-o", "out", "--resume").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--batch-size", "0"), 2, "TrainingOptions.batch_size: Expected `int` >= 1; got 0."),
        (("--precision", "float8"), 2, "allowed: ['float32', 'bfloat16']"),
        (("--learning-rate", "NaN"), 2, "learning_rate"),
        (("--steps", "many"), 2, "Expected `int`"),
        (("--resolution", "17", "--channel-multiplier", "1,1"), 1, "resolution 17 is not a multiple of 2"),
        (("--warmup-steps", "30", "--steps", "10"), 1, "warmup_steps 30 is more than steps 10"),
        (("--held-out", "99"), 1, "held_out is 99 of 15 pictures"),
        (("--resume",), 1, "has no job to resume"),
        (("--config", "unknown.json"), 1, "unknown fields: colour"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    run: Run, arguments: tuple[str, ...], status: int, message: str
) -> None:
    Path("unknown.json").write_text('{"colour": 1}')
    done = run("train", "pictures", "-o", "out", *arguments)
    assert done.exit_code == status
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not Path("out/run").exists()


def test_options_replace_the_fields_of_a_file(run: Run) -> None:
    fields = {"resolution": 8, "channel_multiplier": [1, 1], "base_channels": 32, "num_res_blocks": 1}
    Path("shape.json").write_text(json.dumps({**fields, "quantizer": "fsq", "quantizer_options": {"levels": [4, 4]}}))
    shape = ("--config", "shape.json", "--resolution", "16", "--embed-dim", "2", "--num-embeddings", "16")
    done = run("train", "pictures", "-o", "out", *shape, "--steps", "1", "--warmup-steps", "0", "--held-out", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"out/tokenizer: trained on {COUNT} pictures\n"
    job = read_job("out")
    assert (job.config.resolution, job.config.base_channels, job.config.quantizer) == (16, 32, "fsq")
    assert (job.options.steps, job.held_out, job.mirror) == (1, 0, False)
    Path("pictures/broken.png").unlink()
    again = train_image_tokenizer("pictures", "again", config=job.config, options=job.options, held_out=0)
    assert (again.pictures, again.folder) == (COUNT, Path("again/tokenizer"))


def test_every_field_is_an_option_with_its_docstring(run: Run) -> None:
    words = " ".join(run("train", "--help").stdout.replace("│", " ").split())
    omitted = {"extras", "perceptual_weight", "in_channels", "out_channels"}
    for owner in (TrainingOptions, ChameleonVQVAEConfig):
        docs = field_options.field_docs(owner)
        for name in set(owner.__struct_fields__) - omitted:
            assert f"--{name.replace('_', '-')}" in words
            assert docs[name]
    assert "Pictures per step; ≥ 1, by default 16." in words
    assert "<float32|bfloat16>" in words


def test_pictures_beyond_the_memory_are_read_again(run: Run) -> None:
    paths = sorted(Path("pictures").glob("[0-9]*.png"))
    processor = ChameleonImageProcessor.meta(16)
    kept, read = (PictureFiles(paths, processor, mirror=True, memory=memory) for memory in (2**20, 3 * 16 * 16 * 5))
    assert repr(read) == f"PictureFiles({COUNT} pictures, 5 of them in memory, mirror=True)"
    batches = [pictures.pixels([0, 9, 3, 13], np.random.default_rng(1)) for pictures in (kept, read)]
    assert torch.equal(*batches)
    assert torch.equal(kept.part([0, 9, 3, 13], np.random.default_rng(1), slice(1, 3)), batches[0][1:3])
