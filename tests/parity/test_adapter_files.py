"""Adapters in files: what peft would take in another way than add_lora does is refused before peft sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chameleon_core import ConfigError, FileFormatError, MissingFileError, WeightsError
from chameleon_core.testing import make_model
from chameleon_core.training import add_lora, load_lora

IDS = torch.tensor([[0, 5, 6, 7]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adapted = add_lora(make_model(), rank=2)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path)
    return tmp_path


def test_adapters_come_back(folder: Path) -> None:
    logits = load_lora(make_model(), folder)(IDS).logits
    assert not torch.equal(logits, make_model()(IDS).logits)
    adapted = load_lora(make_model(), folder)
    assert torch.equal(adapted(IDS).logits, logits)
    assert adapted.peft_config["default"].lora_alpha == 32


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"peft_type": "LOKR"}, "no adapters of LoRA"),
        ({"peft_type": None}, "no adapters of LoRA"),
        ({"megatron_config": {"a": 1}}, "asks for 'megatron_config'"),
        ({"init_lora_weights": "pissa"}, "asks for 'init_lora_weights'"),
        ({"modules_to_save": ["lm_head"]}, "asks for 'modules_to_save'"),
        ({"rank_pattern": {"q_proj": 2**40}}, "asks for 'rank_pattern'"),
        ({"of_tomorrow": True}, "asks for 'of_tomorrow'"),
        ({"r": 2**60}, "doesn't describe adapters"),
        ({"r": True}, "doesn't describe adapters"),
        ({"lora_alpha": "r"}, "doesn't describe adapters"),
        ({"lora_dropout": 1}, "doesn't describe adapters"),
        ({"target_modules": "all-linear"}, "doesn't describe adapters"),
        ({"target_modules": []}, "doesn't describe adapters"),
        ({"target_modules": ["lm_head"]}, "has adapters for 'lm_head'"),
    ],
    ids=ascii,
)
def test_other_options_are_refused(folder: Path, fields: dict[str, Any], match: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(FileFormatError, match=match):
        load_lora(make_model(), folder)


def test_unknown_options_that_are_off_are_none(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of_tomorrow": False, "peft_version": "9"}))
    load_lora(make_model(), folder)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "of another shape", "of another type", "NaN"])
def test_weights_that_do_not_fit_leave_the_model_as_it_is(folder: Path, fault: str) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    if fault == "missing":
        del weights[name]
    elif fault == "unexpected":
        weights["more"] = torch.zeros(1)
    elif fault == "of another shape":
        weights[name] = weights[name][:1].contiguous()
    elif fault == "of another type":
        weights[name] = weights[name].int()
    else:
        weights[name][0, 0] = float("nan")
    save_file(weights, path)
    model = make_model()
    names = list(model.state_dict())
    with pytest.raises(WeightsError, match=fault):
        load_lora(model, folder)
    assert list(model.state_dict()) == names


def test_only_safetensors_are_read(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"adapter_model\.safetensors.*aren't read"):
        load_lora(make_model(), folder)


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": float("nan")}, {"dropout": 2.0}, {"rank": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="LoRA's options"):
        add_lora(make_model(), **options)
