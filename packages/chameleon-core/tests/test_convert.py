"""Pooling key/value heads: by hand, on layers and on folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from chameleon_core.checkpoints import Checkpoint, StoredTensor, load_checkpoint, read_checkpoint, write_checkpoint
from chameleon_core.checkpoints.convert import pool_checkpoint, pool_key_value_heads
from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import ConfigError, WeightsError
from chameleon_core.model import ChameleonForConditionalGeneration

ATTENTION = "model.layers.0.self_attn."
SMALL = ChameleonConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    attention_bias=True,
)


def test_each_new_head_is_the_mean_of_its_neighbours_by_hand() -> None:
    # Four heads of width 2, the rows of head h being 10 h and 10 h + 1 for each of the 8 inputs.
    rows = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0, 30.0, 31.0])
    weight = rows[:, None].expand(-1, 8)
    config = ChameleonConfig(vocab_size=4, hidden_size=8, num_attention_heads=4, num_key_value_heads=4)
    state_dict = {
        ATTENTION + "q_proj.weight": weight,
        ATTENTION + "k_proj.weight": weight,
        ATTENTION + "v_proj.bias": rows,
        ATTENTION + "k_norm.weight": rows.reshape(4, 2),
        ATTENTION + "q_norm.weight": rows.reshape(4, 2),
    }
    converted = pool_key_value_heads(config, state_dict, 2)
    pooled = torch.tensor([5.0, 6.0, 25.0, 26.0])
    assert converted.config == config.replace(num_key_value_heads=2)
    assert converted.state_dict[ATTENTION + "k_proj.weight"].tolist() == pooled[:, None].expand(-1, 8).tolist()
    assert converted.state_dict[ATTENTION + "v_proj.bias"].tolist() == pooled.tolist()
    assert converted.state_dict[ATTENTION + "k_norm.weight"].tolist() == pooled.reshape(2, 2).tolist()
    for untouched in ("q_proj.weight", "q_norm.weight"):
        assert converted.state_dict[ATTENTION + untouched] is state_dict[ATTENTION + untouched]


def test_a_model_whose_heads_agree_within_each_group_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    grouped = ChameleonForConditionalGeneration(SMALL.replace(num_key_value_heads=2)).eval()
    for parameter in grouped.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weights = {}
    for name, tensor in grouped.state_dict().items():
        if ".k_norm." in name:
            weights[name] = tensor.repeat_interleave(2, dim=0)
        elif ".k_proj." in name or ".v_proj." in name:
            weights[name] = tensor.unflatten(0, (2, SMALL.head_dim)).repeat_interleave(2, dim=0).flatten(0, 1)
        else:
            weights[name] = tensor
    full = ChameleonForConditionalGeneration(SMALL).eval()
    full.load_state_dict(weights)

    pooled = ChameleonForConditionalGeneration(SMALL.replace(num_key_value_heads=2)).eval()
    pooled.load_state_dict(pool_key_value_heads(SMALL, full.state_dict(), 2).state_dict)
    ids = torch.tensor([[1, 5, 3, 10, 2]])
    torch.testing.assert_close(pooled(ids).logits, full(ids).logits, rtol=1e-5, atol=1e-5)


def test_means_of_bfloat16_weights_are_rounded_once() -> None:
    # In bfloat16, 256 + 1 is 256 again: four terms summed there would give 64, not 64.75.
    state_dict = {ATTENTION + "k_proj.bias": torch.tensor([256.0, 1.0, 1.0, 1.0]).repeat_interleave(4).bfloat16()}
    pooled = pool_key_value_heads(SMALL, state_dict, 1).state_dict[ATTENTION + "k_proj.bias"]
    assert pooled.dtype == torch.bfloat16
    assert pooled.tolist() == [torch.tensor(64.75).bfloat16().item()] * 4


def test_a_folder_is_converted_tensor_by_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ChameleonForConditionalGeneration(SMALL)
    stored = {name: StoredTensor.of(tensor) for name, tensor in model.state_dict().items()}
    write_checkpoint(Checkpoint(SMALL, stored), tmp_path / "full")
    write_checkpoint(pool_checkpoint(read_checkpoint(tmp_path / "full"), 2), tmp_path / "pooled")

    loaded = load_checkpoint(tmp_path / "pooled", build=ChameleonForConditionalGeneration)
    expected = pool_key_value_heads(SMALL, model.state_dict(), 2).state_dict
    assert loaded.config.num_key_value_heads == 2
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("heads", [0, 3, 8])
def test_a_number_that_does_not_divide_the_heads_is_refused(heads: int) -> None:
    with pytest.raises(ConfigError, match=f"must divide that of the model, 4; got {heads}"):
        pool_key_value_heads(SMALL, {}, heads)


@pytest.mark.parametrize("part", ["k_proj.weight", "v_proj.bias", "k_norm.weight"])
@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5), (0, 5)])
def test_keys_and_values_of_another_shape_are_refused_by_name(part: str, shape: tuple[int, ...]) -> None:
    name = ATTENTION + part
    tensor = torch.ones(shape)
    with pytest.raises(WeightsError, match=re.escape(f"{name} has the shape {shape}, expected")):
        pool_key_value_heads(SMALL, {name: tensor}, 2)
    with pytest.raises(WeightsError, match=re.escape(f"{name} has the shape {shape}, expected")):
        pool_checkpoint(Checkpoint(SMALL, {name: StoredTensor.of(tensor)}, {}), 2)
