"""Files with sizes, JSON and bytes that no program writes: each is soon an error of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQError,
    ConfigError,
    FileAccessError,
    FileFormatError,
    ImageTokenizer,
    MissingFileError,
    WeightsError,
)
from chameleon_vq.training import read_log
from chameleon_vq.training.checkpoints import load_checkpoint


@pytest.fixture
def folder(tokenizer: ImageTokenizer, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a": ' + b"1" * 5_000 + b"}", b"\xff\xfe{}", b"", b"[]", b'{"a": "\xed\xa0\x80"}', b"{" * 9],
)
def test_json_of_any_rubbish_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ChameleonVQError, match=name):
        ImageTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_res_blocks": 10**9},
        {"channel_multiplier": [1] * 2_000, "resolution": 2**1_999},
        {"base_channels": 32 * 10**17},
        {"num_embeddings": 2**62, "embed_dim": 2**62},
        {"in_channels": 10**12},
        {"quantizer": "residual", "quantizer_options": {"num_quantizers": 10**9}},
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused(folder: Path, fields: dict[str, Any]) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(ChameleonVQError):
        ImageTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["checkpoint.pt", "log.jsonl"])
def test_the_state_of_a_run_is_refused_where_it_is_rubbish(tmp_path: Path, name: str) -> None:
    for content in (
        b"",
        b"\x80\x02}q\0.",
        b"\x80\x02K\x01.",
        b"PK\3\4",
        b"\xff" * 99,
        b"[" * 100_000 + b"\n{}",
        b"3\n{}",
    ):
        (tmp_path / name).write_bytes(content)
        if name == "log.jsonl" and not content:
            assert read_log(tmp_path / name) == []
            continue
        with pytest.raises(FileFormatError, match=name):
            read_log(tmp_path / name) if name == "log.jsonl" else load_checkpoint(tmp_path)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "toaster", "cpu:x"])
def test_a_device_that_is_not_there_is_named(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=r"the device '.*' can't be used here: .*\. Pass device='cpu'\."):
        ImageTokenizer.from_pretrained(folder, device=device)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "int8"])
def test_a_dtype_that_can_not_compute_is_named(folder: Path, dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected one that the model computes in: torch\.float32"):
        ImageTokenizer.from_pretrained(folder, dtype=dtype)


def test_a_place_that_can_not_hold_a_model_is_named(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match=r"can't be written"):
        tokenizer.save_pretrained(tmp_path / "file" / "model")
    with pytest.raises(FileAccessError, match=r"can't be written"):
        ChameleonImageProcessor().save_pretrained(tmp_path / "file")


def test_a_single_file_comes_before_an_index_of_an_earlier_save(folder: Path, tokenizer: ImageTokenizer) -> None:
    index = {"weight_map": {"encoder.conv_in.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ImageTokenizer.from_pretrained(folder).fingerprint == tokenizer.fingerprint


def test_a_part_that_is_missing_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    weight_map["quant_conv.bias"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(MissingFileError, match=r"no .*model-00002-of-00002\.safetensors, which the index names"):
        ImageTokenizer.from_pretrained(folder)


def test_a_processor_s_file_without_an_image_processor_changes_nothing(folder: Path) -> None:
    before = ImageTokenizer.from_pretrained(folder).image_processor
    (folder / "processor_config.json").write_text('{"processor_class": "ChameleonProcessor"}')
    assert ImageTokenizer.from_pretrained(folder).image_processor == before
    (folder / "preprocessor_config.json").unlink()
    assert ImageTokenizer.from_pretrained(folder).image_processor.crop_size == {"height": 32, "width": 32}


def test_an_image_processor_inside_a_processor_s_file_comes_first(folder: Path) -> None:
    nested = ChameleonImageProcessor.meta(64).to_dict()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert ImageTokenizer.from_pretrained(folder).image_processor.rounding == "meta"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_named(folder: Path, value: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    names = [min(weights), max(weights)]
    for name in names:
        weights[name].view(-1)[-1] = float(value)
    save_file(weights, path)
    with pytest.raises(WeightsError, match="hold NaN or infinity") as caught:
        ImageTokenizer.from_pretrained(folder)
    assert list(caught.value.not_finite) == names
    ImageTokenizer.from_pretrained(folder, check_finite=False)


def test_weights_that_overflow_in_a_dtype_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name].view(-1)[0] = 1e30
    save_file(weights, path)
    ImageTokenizer.from_pretrained(folder)
    with pytest.raises(WeightsError, match=r"float16 overflows") as caught:
        ImageTokenizer.from_pretrained(folder, dtype=torch.float16)
    assert list(caught.value.not_finite) == [name]


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint16, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_dtype_are_named(folder: Path, dtype: torch.dtype) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name] = weights[name].to(dtype)
    save_file(weights, path)
    with pytest.raises(WeightsError, match=rf"dtype: {name} is \w+, expected floats") as caught:
        ImageTokenizer.from_pretrained(folder)
    assert list(caught.value.mis_typed) == [name]


@pytest.mark.parametrize("device", ["toaster", "cpu:x"])
def test_a_tokenizer_moves_to_no_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="can't be used here"):
        ImageTokenizer.from_pretrained(folder).to(device)
