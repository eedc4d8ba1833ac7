"""Checkpoints of the format hf: what is written is read back, and files that don't fit are named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chameleon_core import CheckpointWarning
from chameleon_core.checkpoints import (
    Checkpoint,
    StoredTensor,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import ConfigError, FileFormatError, InterchangeWarning, WeightsError
from chameleon_core.formats.safetensors_files import parse_size, split_into_shards
from chameleon_core.model import ChameleonForConditionalGeneration

SMALL = ChameleonConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
ALL_BIASES = SMALL.replace(attention_bias=True, mlp_bias=True, swin_norm=True)
TIED = SMALL.replace(tie_word_embeddings=True)

IMAGE_WEIGHTS = {
    "encoder.conv_in.weight": torch.arange(12.0).reshape(3, 4),
    "quantize.embedding.weight": torch.arange(6.0).reshape(3, 2),
    "decoder.conv_out.bias": torch.arange(5.0),
}


def make_model(config: ChameleonConfig = SMALL, *, seed: int = 0) -> ChameleonForConditionalGeneration:
    torch.manual_seed(seed)
    return ChameleonForConditionalGeneration(config)


def load(folder: Path, **options: Any) -> ChameleonForConditionalGeneration:
    return load_checkpoint(folder, build=ChameleonForConditionalGeneration, **options).model


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    expected, found = left.state_dict(), right.state_dict()
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: stored.load() for name, stored in read_checkpoint(folder).tensors.items()}


@pytest.mark.parametrize("config", [SMALL, ALL_BIASES, TIED], ids=["plain", "biases and swin_norm", "tied"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB"])
def test_a_saved_model_is_loaded_back_equal(config: ChameleonConfig, max_shard_size: str, tmp_path: Path) -> None:
    model = make_model(config)
    save_checkpoint(model, tmp_path, config=config, max_shard_size=max_shard_size)
    loaded = load_checkpoint(tmp_path, build=ChameleonForConditionalGeneration)
    assert_same_weights(loaded.model, model)
    assert not loaded.model.training
    assert loaded.config.replace(extras={}) == config


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL)
    assert files(tmp_path) == ["config.json", "generation_config.json", "model.safetensors"]
    assert set(load_file(tmp_path / "model.safetensors")) == set(make_model().state_dict())


def test_every_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL, image_weights=IMAGE_WEIGHTS)
    (tmp_path / "new").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_shards_and_their_index_are_the_references(tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(model, tmp_path, config=SMALL, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    assert len(shards) > 1
    assert files(tmp_path) == sorted([*shards, "config.json", "generation_config.json", "model.safetensors.index.json"])
    for shard in shards:
        content = load_file(tmp_path / shard)
        assert {name for name, owner in index["weight_map"].items() if owner == shard} == set(content)
        assert sum(tensor.nbytes for tensor in content.values()) <= 20_000
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_the_image_decoder_has_a_shard_of_its_own(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL, image_weights=IMAGE_WEIGHTS)
    assert list(load_file(tmp_path / "model-00002-of-00002.safetensors")) == ["model.vqmodel.decoder.conv_out.bias"]
    assert "model.vqmodel.encoder.conv_in.weight" in load_file(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize("same_folder", [True, False])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_the_image_tokenizers_weights_pass_through(same_folder: bool, max_shard_size: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    save_checkpoint(make_model(), source, config=SMALL, image_weights=IMAGE_WEIGHTS)
    target = source if same_folder else tmp_path / "target"
    model = load(source, dtype=torch.bfloat16)
    save_checkpoint(model, target, config=SMALL, source=source, max_shard_size=max_shard_size)
    weights = weights_of(target)
    for name, tensor in IMAGE_WEIGHTS.items():
        assert weights[f"model.vqmodel.{name}"].dtype == torch.float32
        assert torch.equal(weights[f"model.vqmodel.{name}"], tensor)
    assert_same_weights(load(target), model)


def test_a_source_that_is_gone_is_an_error_and_not_a_model_without_eyes(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone, .* doesn't exist any more.*image tokenizer"):
        save_checkpoint(make_model(), tmp_path, config=SMALL, source=tmp_path / "gone")


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_tied_embeddings_are_stored_once_and_tied_again(max_shard_size: str, tmp_path: Path) -> None:
    save_checkpoint(make_model(TIED), tmp_path, config=TIED, max_shard_size=max_shard_size)
    assert "lm_head.weight" not in read_checkpoint(tmp_path).tensors
    loaded = load(tmp_path, dtype=torch.bfloat16)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_of_both_names_in_a_tied_file_the_embeddings_count(tmp_path: Path) -> None:
    model = make_model(TIED)
    save_checkpoint(model, tmp_path, config=TIED)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    assert_same_weights(load(tmp_path), model)


def test_tied_embeddings_that_differ_are_not_lost_in_silence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        save_checkpoint(make_model(SMALL), tmp_path, config=TIED)
    assert files(tmp_path) == []


def test_a_shared_table_of_untied_embeddings_is_stored_twice(tmp_path: Path) -> None:
    model = make_model()
    model.tie_weights()
    save_checkpoint(model, tmp_path, config=SMALL)
    loaded = load(tmp_path)
    assert_same_weights(loaded, model)
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight


def test_the_type_of_the_weights_is_recorded_for_old_and_new_readers(tmp_path: Path) -> None:
    save_checkpoint(make_model().bfloat16(), tmp_path, config=SMALL.replace(extras={"dtype": "float32"}))
    data = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (data["dtype"], data["torch_dtype"]) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, torch.float16),
        ("auto", torch.bfloat16),
        (torch.float32, torch.float32),
        ("float64", torch.float64),
    ],
)
def test_the_type_of_the_loaded_weights(asked: torch.dtype | str | None, expected: torch.dtype, tmp_path: Path) -> None:
    save_checkpoint(make_model().half(), tmp_path, config=SMALL)
    data = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    data["dtype"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(data), encoding="utf-8")
    assert {parameter.dtype for parameter in load(tmp_path, dtype=asked).parameters()} == {expected}


@pytest.mark.parametrize("dtype", [torch.int8, "int8", "bfloat61", "load"])
def test_a_type_that_weights_cannot_have_is_refused(dtype: torch.dtype | str, tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL)
    with pytest.raises(ConfigError, match="dtype must be a floating-point type"):
        load(tmp_path, dtype=dtype)


def test_loaded_weights_are_trainable_and_the_file_never_changes(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = load(tmp_path)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_the_generation_config_is_kept(tmp_path: Path) -> None:
    kept = {"temperature": 0.7, "top_p": 0.9, "something_new": [1, 2]}
    save_checkpoint(make_model(), tmp_path, config=SMALL, generation_config=kept)
    assert read_checkpoint(tmp_path).generation_config == kept
    (tmp_path / "generation_config.json").unlink()
    assert read_checkpoint(tmp_path).generation_config == {}


def test_a_generation_config_is_made_from_the_config(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL.replace(eos_token_id=[2, 3]))
    assert read_checkpoint(tmp_path).generation_config == {"bos_token_id": 1, "eos_token_id": [2, 3]}


def test_frequencies_in_old_files_are_left_out_and_named(tmp_path: Path) -> None:
    stored = {name: StoredTensor.of(tensor) for name, tensor in make_model().state_dict().items()}
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = StoredTensor.of(torch.ones(4))
    write_checkpoint(Checkpoint(SMALL, stored), tmp_path)
    with pytest.warns(CheckpointWarning, match=r"rotary_emb\.inv_freq"):
        loaded = load(tmp_path)
    assert_same_weights(loaded, make_model())


def test_all_tensors_that_do_not_fit_are_listed_at_once(tmp_path: Path) -> None:
    weights = make_model().state_dict()
    weights["model.norm.scale"] = weights.pop("model.norm.weight")
    del weights["lm_head.weight"]
    weights["model.embed_tokens.weight"] = torch.zeros(60, 32)
    write_checkpoint(Checkpoint(SMALL, {name: StoredTensor.of(each) for name, each in weights.items()}), tmp_path)
    with pytest.raises(WeightsError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"the weights in {tmp_path} don't match its config. Missing: model.norm.weight, lm_head.weight; "
        "unexpected: model.norm.scale; "
        "of another shape: model.embed_tokens.weight (stored [60, 32], the config says [64, 32])."
    )


def test_a_model_with_hidden_buffers_is_refused(tmp_path: Path) -> None:
    class Hidden(nn.Linear):
        def __init__(self, config: ChameleonConfig) -> None:
            super().__init__(2, 2)
            self.register_buffer("table", torch.ones(2), persistent=False)

    stored = {name: StoredTensor.of(tensor) for name, tensor in nn.Linear(2, 2).state_dict().items()}
    write_checkpoint(Checkpoint(SMALL, stored), tmp_path)
    with pytest.raises(WeightsError, match="buffers, which stay empty: table"):
        load_checkpoint(tmp_path, build=Hidden)


def test_a_norm_that_other_readers_would_apply_is_not_left_out_in_silence(tmp_path: Path) -> None:
    config = SMALL.replace(qk_norm=False)
    with pytest.raises(ConfigError, match="no field for qk_norm=False"):
        save_checkpoint(make_model(config), tmp_path, config=config)
    assert files(tmp_path) == []


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, 20_000])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_a_truncated_file_is_named(kept_bytes: int, max_shard_size: str, tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL, max_shard_size=max_shard_size)
    path = sorted(tmp_path.glob("*.safetensors"))[-1]
    content = path.read_bytes()
    path.write_bytes(content[: min(kept_bytes, len(content) - 1)])
    with pytest.raises(FileFormatError, match=rf"{path.name} \(\d+ bytes\) is not a complete safetensors file"):
        load(tmp_path)


def test_an_unknown_type_in_a_file_is_named(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL)
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(FileFormatError, match="a has the type F8_E8M0; expected one of F64, F32"):
        load(tmp_path)


@pytest.mark.parametrize("shape", [[2**63, 0], [0, 2**64]])
def test_a_size_that_no_tensor_has_is_refused(shape: list[int], tmp_path: Path) -> None:
    header = json.dumps({"more.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FileFormatError, match=r"more\.weight has the shape|not a complete safetensors file"):
        load(tmp_path)


def test_a_file_with_an_unpadded_header_is_read(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, config=SMALL)
    entries = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "numbers": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    header = json.dumps(entries).encode()
    content = struct.pack("<Q", len(header)) + header + b"\0" + struct.pack("<2f", 1.5, -2.0)
    (tmp_path / "model.safetensors").write_bytes(content)
    numbers = read_checkpoint(tmp_path).tensors["numbers"].load()
    assert numbers.tolist() == [1.5, -2.0]
    assert numbers.data_ptr() % 4 == 0


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": {"a": "../other.safetensors"}}, "expected a file name in the same folder"),
        ({"weight_map": {"a": ["x"]}}, "expected a file name in the same folder"),
        ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, "lacks x.safetensors, y.safetensors, which"),
        ({"weight_map": {"a": "real.safetensors", "b": "real.safetensors"}}, "don't hold: b"),
    ],
)
def test_a_damaged_index_is_named(index: dict[str, Any], message: str, tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "real.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        load(tmp_path)


def test_pickles_are_not_read_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileFormatError, match=r"pytorch_model\.bin\. These are pickles.*Convert them: .* --pickles"):
        load(tmp_path)


def test_a_folder_without_weights_lists_what_it_has(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match=r"no model\.safetensors and no .*Found: config\.json"):
        load(tmp_path)


def test_a_folder_of_no_known_format_says_what_each_looks_for(tmp_path: Path) -> None:
    (tmp_path / "params.txt").touch()
    with pytest.raises(
        FileFormatError,
        match=r"installed formats: hf \(recognized by config\.json\), meta \(rec.*\)\. It holds: params",
    ):
        load(tmp_path)
    with pytest.raises(FileFormatError, match=r"params\.txt is not a folder"):
        load(tmp_path / "params.txt")


@pytest.mark.parametrize(
    ("size", "expected"), [(7, 7), ("7", 7), ("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2MiB", 2 * 2**20)]
)
def test_sizes_of_shards(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", [0, -1, "", "big", "5G", "5 GBs", "1e9"])
def test_sizes_that_are_none_are_refused(size: int | str) -> None:
    with pytest.raises(ConfigError, match="max_shard_size must be a number of bytes ≥ 1 or a text like '5GB'"):
        parse_size(size)


def test_tensors_are_dealt_out_in_order_by_hand() -> None:
    sizes = {"a": 4, "b": 4, "c": 12, "d": 4, "model.vqmodel.decoder.x": 4, "e": 4}
    tensors = {name: StoredTensor.of(torch.zeros(size // 4)) for name, size in sizes.items()}
    names = [list(shard) for shard in split_into_shards(tensors, 8)]
    assert names == [["a", "b"], ["c"], ["d", "e"], ["model.vqmodel.decoder.x"]]


@pytest.mark.parametrize("groups", [None, 32, 8])
def test_saving_warns_of_pictures_that_transformers_would_encode_otherwise(tmp_path: Path, groups: int | None) -> None:
    config = SMALL.replace(vq_config={} if groups is None else {"norm_num_groups": groups})
    model = make_model(config)
    save_checkpoint(model, tmp_path / "text", config=config)  # without an image tokenizer nothing is encoded
    if groups == 8:
        with pytest.warns(InterchangeWarning, match=r"norm_num_groups 8, .*without an error, takes 32 groups"):
            save_checkpoint(model, tmp_path, config=config, image_weights=IMAGE_WEIGHTS)
    else:
        save_checkpoint(model, tmp_path, config=config, image_weights=IMAGE_WEIGHTS)
