"""What publishers stored otherwise comes into one layout, and what trainers left is dropped."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chameleon_core import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    CheckpointWarning,
    ConfigError,
    FileFormatError,
    WeightsError,
)
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.testing import randomize

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def model() -> ChameleonForConditionalGeneration:
    config = ChameleonConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return randomize(ChameleonForConditionalGeneration(config)).eval()


def rewritten(
    model: ChameleonForConditionalGeneration, folder: Path, change: Change, **fields: Any
) -> ChameleonForConditionalGeneration:
    """Save a model, change its file's tensors and its config, and return the folder's model before the change."""
    model.save_pretrained(folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return model


def logits(model: ChameleonForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


LEFT: dict[str, dict[str, Tensor]] = {
    "rotary_emb.inv_freq": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "img2bpe_mapping_tensor": {"model.img2bpe_mapping_tensor": torch.ones(4, dtype=torch.int64)},
    "model.vqmodel.loss": {"model.vqmodel.loss.logvar": torch.ones(1)},
    "loss.": {"loss.discriminator.main.0.weight": torch.ones(1)},
}


@pytest.mark.parametrize("name", LEFT)
def test_leftovers_are_dropped_and_listed_once(
    model: ChameleonForConditionalGeneration, tmp_path: Path, name: str
) -> None:
    rewritten(model, tmp_path, lambda tensors: {**tensors, **LEFT[name]})
    with pytest.warns(CheckpointWarning, match="aren't read") as caught:
        loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert len(caught) == 1
    assert next(iter(LEFT[name])) in str(caught[0].message)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


WRAPPED: dict[str, Callable[[str], str]] = {
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "module.": lambda name: f"module.{name}",
    "base_layer.": lambda name: name.replace("q_proj.", "q_proj.base_layer."),
    "in the middle": lambda name: name.replace("layers.1.", "layers.1._orig_mod."),
    "both": lambda name: f"module._orig_mod.{name}",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names_of_wrapped_modules_are_read_without_the_wrapper(
    model: ChameleonForConditionalGeneration, tmp_path: Path, name: str
) -> None:
    rewritten(model, tmp_path, lambda tensors: {WRAPPED[name](each): tensor for each, tensor in tensors.items()})
    with pytest.warns(CheckpointWarning, match="wrapped modules") as caught:
        loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert len(caught) == 1
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_two_tensors_of_one_name_are_refused(model: ChameleonForConditionalGeneration, tmp_path: Path) -> None:
    rewritten(model, tmp_path, lambda tensors: {**tensors, "module.lm_head.weight": tensors["lm_head.weight"].clone()})
    with pytest.raises(FileFormatError, match=r"two tensors lm_head\.weight"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["action_head.0.weight", "mlp_head.weight", "model.codebook_in.weight"])
def test_heads_of_finetunes_are_named_kept_and_written_back(
    model: ChameleonForConditionalGeneration, tmp_path: Path, name: str
) -> None:
    head = torch.arange(6.0).view(2, 3)
    rewritten(model, tmp_path / "a", lambda tensors: {**tensors, name: head})
    with pytest.raises(WeightsError, match=rf"Unexpected: {name}.*extra_weights='keep'"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path / "a")
    with pytest.warns(CheckpointWarning, match=rf"kept in extra_weights: {name}\."):
        loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "a", extra_weights="keep")
    assert {each: tensor.tolist() for each, tensor in loaded.extra_weights.items()} == {name: head.tolist()}
    loaded.save_pretrained(tmp_path / "b")
    with pytest.warns(CheckpointWarning, match="kept in extra_weights"):
        again = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "b", extra_weights="keep")
    torch.testing.assert_close(again.extra_weights[name], head, rtol=0, atol=0)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("rotary_layout", [None, "pairs"])
def test_a_tensor_without_axes_is_refused_by_name(
    model: ChameleonForConditionalGeneration, tmp_path: Path, rotary_layout: str | None
) -> None:
    for number, name in enumerate(model.state_dict()):
        folder = tmp_path / str(number)
        rewritten(model, folder, lambda tensors, name=name: {**tensors, name: torch.tensor(1.0)})
        with pytest.raises((WeightsError, ConfigError), match=re.escape(name)):
            ChameleonForConditionalGeneration.from_pretrained(folder, rotary_layout=rotary_layout)
        with pytest.raises((WeightsError, ConfigError), match=re.escape(name)):
            convert_checkpoint(folder, tmp_path / "converted", checkpoint_format="meta", rotary_layout=rotary_layout)


def test_extra_weights_has_two_values(model: ChameleonForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="extra_weights must be 'refuse' or 'keep'; got 'drop'"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, extra_weights="drop")


def is_norm(name: str) -> bool:
    return "q_norm" in name or "k_norm" in name


@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 8)], ids=["one", "one row", "two ranks"])
def test_norms_of_ranks_are_spread_over_the_heads_that_they_served(
    model: ChameleonForConditionalGeneration, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    stored: dict[str, Tensor] = {}

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        stored.update({name: torch.randn(shape) for name in tensors if is_norm(name)})
        return {**tensors, **stored}

    rewritten(model, tmp_path, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    rows = shape[0] if len(shape) > 1 else 1
    for name, tensor in loaded.state_dict().items():
        if is_norm(name):
            heads = len(tensor)
            for head in range(heads):
                torch.testing.assert_close(tensor[head], stored[name].view(rows, 8)[head * rows // heads])


def test_norms_of_ranks_that_do_not_divide_the_heads_are_refused(
    model: ChameleonForConditionalGeneration, tmp_path: Path
) -> None:
    rewritten(model, tmp_path, lambda tensors: {n: torch.ones(3, 8) if is_norm(n) else t for n, t in tensors.items()})
    with pytest.raises(WeightsError, match=r"Of another shape: .*stored \[3, 8\], the config says \[4, 8\]"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)


def as_pairs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose rows rotate adjacent pairs, by an index and apart from the toolkit's own code."""
    order = [half * 4 + pair for pair in range(4) for half in range(2)]  # 0 4 1 5 2 6 3 7
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            heads = tensor.view(-1, 8, tensor.shape[1])
            changed[name] = heads[:, order].reshape(tensor.shape).contiguous()
        elif is_norm(name):
            changed[name] = tensor[:, order].contiguous()
    return changed


def test_the_early_fork_is_refused_or_converted_and_never_read_wrongly(
    model: ChameleonForConditionalGeneration, tmp_path: Path
) -> None:
    rewritten(model, tmp_path / "a", as_pairs, qk_layernorm=True)
    with pytest.raises(ConfigError, match=r"qk_layernorm .* Pass rotary_layout='pairs' to convert them"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path / "a")
    loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "a", rotary_layout="pairs")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    loaded.save_pretrained(tmp_path / "b")
    again = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "b")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="rotary_layout must be 'halves' or 'pairs'; got 'thirds'"):
        read_checkpoint(tmp_path / "b", rotary_layout="thirds")


def test_a_folder_of_the_fork_that_was_converted_is_read_as_it_is(
    model: ChameleonForConditionalGeneration, tmp_path: Path
) -> None:
    rewritten(model, tmp_path, dict, qk_layernorm=True)
    loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path, rotary_layout="halves")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
