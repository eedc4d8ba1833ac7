"""A save that is interrupted, at whatever step, leaves a folder that loads: the old model or the new one, whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint
from chameleon_core.config import ChameleonConfig
from chameleon_core.formats import hf as hf_module
from chameleon_core.formats import safetensors_files
from chameleon_core.model import ChameleonForConditionalGeneration

SMALL = ChameleonConfig(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)
ONE_FILE, SHARDS = "5GB", "2KB"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


class Countdown:
    """Lets ``steps`` changes of the folder happen and interrupts the next one."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def around(self, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            return function(*arguments, **options)

        return counted

    def write(self, path: Path, tensors: Any) -> None:
        self.around(lambda _: None)("weights")
        safetensors_files.write_safetensors(path, tensors)


def make_model(value: float) -> ChameleonForConditionalGeneration:
    model = ChameleonForConditionalGeneration(SMALL)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def values_in(folder: Path) -> set[float]:
    model = load_checkpoint(folder, build=ChameleonForConditionalGeneration).model
    return {value for tensor in model.state_dict().values() for value in tensor.unique().tolist()}


def save(model: ChameleonForConditionalGeneration, folder: Path, max_shard_size: str) -> None:
    save_checkpoint(model, folder, config=SMALL, max_shard_size=max_shard_size)


@pytest.mark.parametrize("old_size", [ONE_FILE, SHARDS])
@pytest.mark.parametrize("new_size", [ONE_FILE, SHARDS])
def test_an_interrupted_save_leaves_one_whole_model(
    old_size: str, new_size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_model(1.0), make_model(2.0)
    outcomes = []
    for steps in range(100):
        folder = tmp_path / str(steps)
        save(old, folder, old_size)
        countdown = Countdown(steps)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", countdown.around(os.rename))
            patch.setattr(os, "replace", countdown.around(os.replace))
            patch.setattr(Path, "unlink", countdown.around(Path.unlink))
            patch.setattr(hf_module, "write_safetensors", countdown.write)
            try:
                save(new, folder, new_size)
                finished = True
            except Interrupted:
                finished = False
        found = values_in(folder)
        assert found in ({1.0}, {2.0}), f"interrupted after {steps} steps"
        outcomes.append(found == {2.0})
        assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
        if finished:
            break
        # What an interruption leaves behind is gone after the next save.
        save(new, folder, new_size)
        assert values_in(folder) == {2.0}
        assert {path.name for path in folder.glob("*.safetensors")} == {path.name for path in used_shards(folder)}
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes), "one step switches from the old model to the new one"


def used_shards(folder: Path) -> set[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {folder / "model.safetensors"}
    return {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}


@pytest.mark.parametrize("size", [ONE_FILE, SHARDS])
def test_a_model_may_be_saved_over_the_files_that_it_is_mapped_from(size: str, tmp_path: Path) -> None:
    save(make_model(1.0), tmp_path, size)
    mapped = load_checkpoint(tmp_path, build=ChameleonForConditionalGeneration).model
    kept = read_checkpoint(tmp_path).tensors["lm_head.weight"]
    save(make_model(2.0), tmp_path, size)
    assert set(mapped.lm_head.weight.flatten().tolist()) == {1.0}
    assert set(kept.load().flatten().tolist()) == {1.0}
    save(mapped, tmp_path, size)
    assert values_in(tmp_path) == {1.0}


def test_saving_again_and_again_leaves_no_file_behind(tmp_path: Path) -> None:
    save(make_model(1.0), tmp_path, SHARDS)
    count = len(list(tmp_path.iterdir()))
    for value in (2.0, 3.0, 4.0):
        save(make_model(value), tmp_path, SHARDS)
        assert len(list(tmp_path.iterdir())) == count
        assert values_in(tmp_path) == {value}


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "adapter.safetensors", "model-notes.txt"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    save(make_model(1.0), tmp_path, SHARDS)
    save(make_model(1.0), tmp_path, ONE_FILE)
    assert {"tokenizer.json", "adapter.safetensors", "model-notes.txt"} <= {path.name for path in tmp_path.iterdir()}
