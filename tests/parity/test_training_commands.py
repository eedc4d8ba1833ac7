"""LoRA adapters and folders of ``datasets`` in the training commands, with peft and datasets themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import Chameleon, ConfigError, FileFormatError
from chameleon_core.cli.app import app
from chameleon_core.demo import make_chameleon
from chameleon_core.tokenization import tokenize_dataset
from chameleon_core.training import load_lora

COUNT = 10
RUN = (
    *("--workers", "0", "--steps", "8", "--batch-size", "3", "--learning-rate", "2e-2", "--sequence-length", "32"),
    *("--held-out", "1", "--samples", "1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("checkpoint")
    make_chameleon(resolution=8, context_length=256).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imagefolder of two splits."""
    path = tmp_path_factory.mktemp("data") / "pictures"
    for split, numbers in (("train", range(7)), ("test", range(7, COUNT))):
        (path / split).mkdir(parents=True)
        lines = []
        for number in numbers:
            colour = (25 * number, 255 - 20 * number, 90)
            PIL.Image.new("RGB", (10, 9), colour).save(path / split / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", "text": f"colour {number}"}))
        (path / split / "metadata.jsonl").write_text("\n".join(lines))
    return path


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})


@pytest.fixture(scope="module")
def adapted(folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("jobs") / "adapted"
    done = command("finetune", folder, pictures, "-o", output, *RUN, "--lora", "4", "--lora-targets", "q_proj,up_proj")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{output / 'model'} and {output / 'adapter'}: {COUNT - 1} documents, 8 steps, loss")
    return output


def test_adapters_load_and_give_what_the_merged_model_gives(adapted: Path, folder: Path) -> None:
    options = json.loads((adapted / "adapter" / "adapter_config.json").read_text())
    assert (options["r"], options["lora_alpha"]) == (4, 8)
    assert sorted(options["target_modules"]) == ["q_proj", "up_proj"]
    base = Chameleon.from_pretrained(folder, dtype="float32")
    ids_BT = torch.tensor([base.processor.encode("colour 3", template="chat")])
    with torch.no_grad():
        before = base.model(ids_BT).logits
        load_lora(base.model, adapted / "adapter")
        with_adapters = base.model(ids_BT).logits
        merged = Chameleon.from_pretrained(adapted / "model").model(ids_BT).logits
    torch.testing.assert_close(merged, with_adapters, atol=1e-5, rtol=1e-5)
    assert (before - merged).abs().max() > 1e-2


def test_adapters_of_a_quantized_model_are_written_alone(
    adapted: Path, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("--lora", "2", "--quantization", "int8", "--no-merge", "--json")
    done = command("finetune", folder, pictures, "-o", tmp_path / "out", *RUN, *arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["model"], result["adapter"]) == (None, str(tmp_path / "out" / "adapter"))
    assert not (tmp_path / "out" / "model").exists()
    load_lora(Chameleon.from_pretrained(folder).model, tmp_path / "out" / "adapter")


def test_a_stopped_job_of_adapters_ends_with_the_same_ones(
    adapted: Path, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("--lora", "4", "--lora-targets", "q_proj,up_proj", "--max-seconds", "1e-6")
    output = tmp_path / "parts"
    first = command("finetune", folder, pictures, "-o", output, *RUN, *arguments)
    assert first.exit_code == 0, first.output
    assert "the same command with --resume continues" in first.stderr
    assert first.stdout.startswith(f"{output}: {COUNT - 1} documents, 1 steps")
    done = command("finetune", folder, pictures, "-o", output, "--resume", "--workers", "0", "--max-seconds", "none")
    assert done.exit_code == 0, done.output
    name = "adapter/adapter_model.safetensors"
    assert (output / name).read_bytes() == (adapted / name).read_bytes()


def test_a_saved_dataset_gives_the_samples_of_its_folder(folder: Path, pictures: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(pictures), cache_dir=str(tmp_path / "cache"))
    loaded.save_to_disk(tmp_path / "splits")
    shuffled = datasets.concatenate_datasets([loaded["test"], loaded["train"]]).shuffle(seed=0)
    shuffled.save_to_disk(tmp_path / "one")
    options: dict[str, Any] = {"order": "picture-first", "workers": 0, "unit_size": 4}
    found = {}
    for name, source in (("folder", pictures), ("splits", tmp_path / "splits"), ("one", tmp_path / "one")):
        done = tokenize_dataset(folder, [source], tmp_path / "tokens" / name, **options)
        assert (done.documents, done.refused) == (COUNT, 0)
        found[name] = [tuple(document.ids.tolist()) for document in done.open()]
        keys = list(done.open().keys())
    assert set(found["folder"]) == set(found["splits"]) == set(found["one"])
    assert keys == [f"one/{number}" for number in range(COUNT)]
    assert found["one"] != found["splits"], "it is shuffled"

    with pytest.raises(ConfigError, match="has no column 'caption'; it has image, text"):
        tokenize_dataset(folder, [tmp_path / "one"], tmp_path / "no", caption_field="caption", **options)
    (damaged,) = (tmp_path / "one").glob("*.arrow")
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="can't be read as a dataset"):
        tokenize_dataset(folder, [tmp_path / "one"], tmp_path / "no", **options)
