"""Folders of a model and of a tokenizer, intact and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    ConfigError,
    FileFormatError,
    ImageTokenizer,
    InterchangeWarning,
    MissingDecoderError,
    MissingFileError,
    WeightsError,
    checkpoint,
)
from chameleon_vq.testing import make_image_tokenizer


def write_model_folder(
    tokenizer: ImageTokenizer, folder: Path, *, sharded: bool, prefix: str = "model.vqmodel."
) -> None:
    """A Chameleon model's folder: text weights, the encoder, and the decoder in a shard of its own."""
    shards: dict[str, dict[str, Tensor]] = {"a.safetensors": {"lm_head.weight": torch.zeros(4, 4)}}
    for name, tensor in tokenizer.state_dict().items():
        part = "c.safetensors" if name.startswith("decoder.") else "b.safetensors"
        shards.setdefault(part, {})[prefix + name] = tensor.contiguous()
    if sharded:
        for file, tensors in shards.items():
            save_file(tensors, folder / file)
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        save_file({name: t for tensors in shards.values() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "chameleon", "vq_config": tokenizer.config_dict()}))
    tokenizer.image_processor.save_pretrained(folder)


@pytest.fixture
def saved(tokenizer: ImageTokenizer, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_was_saved_is_loaded(saved: Path, tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    loaded = ImageTokenizer.from_pretrained(saved)
    assert loaded.model.config == tokenizer.model.config
    assert loaded.image_processor.to_dict() == tokenizer.image_processor.to_dict()
    assert not loaded.model.training
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tokenizer.state_dict().items())
    assert torch.equal(loaded.encode(picture), tokenizer.encode(picture))


@pytest.mark.parametrize("sharded", [True, False])
def test_a_model_s_folder_is_read_by_its_prefix(
    tokenizer: ImageTokenizer, tmp_path: Path, picture: PIL.Image.Image, sharded: bool
) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=sharded)
    loaded = ImageTokenizer.from_pretrained(tmp_path)
    codes_BN = loaded.encode(picture)
    assert torch.equal(codes_BN, tokenizer.encode(picture))
    assert loaded.decode(codes_BN)[0].tobytes() == tokenizer.decode(codes_BN)[0].tobytes()


def test_of_a_model_s_folder_only_the_image_tokenizer_s_files_are_opened(
    tokenizer: ImageTokenizer, tmp_path: Path
) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=True)
    (tmp_path / "a.safetensors").write_bytes(b"the text model's weights, which need not be here")
    assert ImageTokenizer.from_pretrained(tmp_path).fingerprint == tokenizer.fingerprint


def test_a_checkpoint_without_a_decoder_encodes(tmp_path: Path, picture: PIL.Image.Image) -> None:
    encoder = make_image_tokenizer(with_decoder=False)
    write_model_folder(encoder, tmp_path, sharded=True)
    loaded = ImageTokenizer.from_pretrained(tmp_path)
    codes_BN = loaded.encode(picture)
    assert torch.equal(codes_BN, make_image_tokenizer().encode(picture))
    assert loaded.fingerprint == make_image_tokenizer().fingerprint
    for draw in (lambda: loaded.decode(codes_BN), lambda: loaded.preview(codes_BN[0])):
        with pytest.raises(MissingDecoderError, match="no decoder"):
            draw()


def test_settings_default_to_the_model_s_resolution(saved: Path) -> None:
    (saved / "preprocessor_config.json").unlink()
    processor = ImageTokenizer.from_pretrained(saved).image_processor
    assert processor == ChameleonImageProcessor().at_resolution(32)


def test_weights_are_loaded_in_the_dtype_asked_for(saved: Path) -> None:
    loaded = ImageTokenizer.from_pretrained(saved, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}
    loaded.save_pretrained(saved)
    assert {tensor.dtype for tensor in ImageTokenizer.from_pretrained(saved).state_dict().values()} == {torch.float32}


# Damage


def test_missing_unexpected_and_mis_shaped_weights_are_listed(saved: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors["encoder.conv_in.bias"]
        tensors["encoder.strange"] = torch.zeros(1)
        tensors["quantize.embedding.weight"] = torch.zeros(5, 8)

    change_weights(saved, damage)
    with pytest.raises(WeightsError) as caught:
        ImageTokenizer.from_pretrained(saved)
    assert caught.value.missing == ("encoder.conv_in.bias",)
    assert caught.value.unexpected == ("encoder.strange",)
    assert caught.value.mis_shaped == {"quantize.embedding.weight": ((5, 8), (64, 8))}
    message = str(caught.value)
    assert "missing (1): encoder.conv_in.bias" in message
    assert "unexpected (1): encoder.strange" in message
    assert "quantize.embedding.weight is [5, 8], expected [64, 8]" in message
    assert str(saved) in message


def test_what_would_not_load_is_not_saved(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    conv = tokenizer.model.quant_conv
    for wrapped, name in (
        (torch.nn.utils.parametrizations.weight_norm(make_image_tokenizer().model.quant_conv), "original0"),
        (torch.nn.DataParallel(conv), r"quant_conv\.module\.weight"),
        (torch.nn.Conv2d(conv.in_channels, 3, 1), r"quant_conv\.weight is \[3, .*expected"),
    ):
        tokenizer.model.set_submodule("quant_conv", wrapped)
        with pytest.raises(WeightsError, match=rf"(?s)the model to save .*{name}.*Remove adapters and wrappers"):
            tokenizer.save_pretrained(tmp_path)
        with pytest.raises(WeightsError):
            tokenizer.save_pretrained(tmp_path / "new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_several_codes_per_position_are_written_and_must_fit_the_quantizer(tmp_path: Path) -> None:
    options = {"num_quantizers": 3}
    make_image_tokenizer(quantizer="residual", quantizer_options=options).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["codes_per_position"] == 3
    loaded = ImageTokenizer.from_pretrained(tmp_path)
    assert loaded.codes_per_position == 3
    # The number in a file isn't kept for another quantizer.
    plain = ChameleonVQVAE(loaded.model.config.replace(quantizer="codebook", quantizer_options={}))
    assert "codes_per_position" not in ImageTokenizer(plain).config_dict()
    for wrong in (2, "3", None):
        (tmp_path / "config.json").write_text(json.dumps({**data, "codes_per_position": wrong}))
        with pytest.raises(
            ConfigError, match=rf"has codes_per_position {wrong!r}, expected 3, .* quantizer 'residual'"
        ):
            ImageTokenizer.from_pretrained(tmp_path)


def test_half_a_decoder_is_not_taken_for_none(saved: Path) -> None:
    change_weights(saved, lambda tensors: tensors.pop("decoder.conv_out.weight"))
    with pytest.raises(WeightsError, match=r"missing \(1\): decoder\.conv_out\.weight"):
        ImageTokenizer.from_pretrained(saved)


def test_a_configuration_of_another_size_is_found_before_anything_is_allocated(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "num_embeddings": 10**12}))
    with pytest.raises(WeightsError, match=r"expected \[1000000000000, 8\]"):
        ImageTokenizer.from_pretrained(saved)


def test_a_truncated_file_of_weights_is_named(saved: Path) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"model\.safetensors \([\d,]+ bytes\) is not a complete safetensors"):
        ImageTokenizer.from_pretrained(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_a_damaged_configuration_is_named(saved: Path, content: str) -> None:
    (saved / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FileFormatError, match=r"config\.json"):
        ImageTokenizer.from_pretrained(saved)


def test_an_impossible_configuration_names_the_file_and_the_field(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "embed_dim": -1}))
    with pytest.raises(ConfigError, match=r"config\.json: ChameleonVQVAEConfig\.embed_dim: Expected `int` >= 1"):
        ImageTokenizer.from_pretrained(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "the model_type 'llama' and no vq_config"),
        ({"vq_config": 3}, "vq_config is a int, expected an object"),
    ],
)
def test_another_model_s_folder_is_refused(saved: Path, config: dict[str, Any], message: str) -> None:
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileFormatError, match=message):
        ImageTokenizer.from_pretrained(saved)


def test_a_model_without_an_image_tokenizer_says_so(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=False, prefix="elsewhere.")
    with pytest.raises(FileFormatError, match=r"has no tensors named model\.vqmodel\.\*"):
        ImageTokenizer.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=True)
    (tmp_path / "c.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"c\.safetensors, which the index names"):
        ImageTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["../b.safetensors", "/etc/passwd", "..", 3])
def test_an_index_can_not_lead_out_of_its_folder(tokenizer: ImageTokenizer, tmp_path: Path, file: object) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=True)
    index = {"weight_map": {"model.vqmodel.encoder.conv_in.weight": file}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileFormatError, match="expected the name of a file in the same folder"):
        ImageTokenizer.from_pretrained(tmp_path)


def test_an_index_that_names_the_wrong_shard_is_an_error(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    write_model_folder(tokenizer, tmp_path, sharded=True)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.vqmodel.encoder.conv_in.weight"] = "c.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(FileFormatError, match=r"c\.safetensors.*encoder\.conv_in\.weight"):
        ImageTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_files_says_what_it_lacks(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"neither model\.safetensors\.index\.json nor model\.safetensors"):
        ImageTokenizer.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"has no config\.json"):
        ImageTokenizer.from_pretrained(saved)


def test_a_folder_that_is_not_there_points_to_downloading(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no folder"):
        ImageTokenizer.from_pretrained(tmp_path / "nothing")
    with pytest.raises(MissingFileError, match=r"no folder \./someone/model\. .*Hub id like .owner/name."):
        ImageTokenizer.from_pretrained("./someone/model")


def test_an_interrupted_save_leaves_the_old_files_whole(
    saved: Path, tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_image_tokenizer(seed=1).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert ImageTokenizer.from_pretrained(saved).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["missing", "unexpected", "not_finite", "mis_shaped", "mis_typed"])
def test_an_error_of_thousands_of_tensors_lists_the_first_and_their_number(kind: str) -> None:
    names = [f"tensor.{number}" for number in range(3000)]
    pairs = {"mis_shaped": ((1,), (2,)), "mis_typed": ("I8", "F32")}
    faults: Any = dict.fromkeys(names, pairs[kind]) if kind in pairs else names
    error = WeightsError("folder", **{kind: faults}, advice="Load another.")
    message = str(error)
    assert len(getattr(error, kind)) == 3000
    assert "tensor.9" in message
    assert "tensor.10" not in message
    assert "2,990 more" in message
    assert len(message) < 1000


def test_saving_warns_of_what_transformers_would_compute_otherwise(tmp_path: Path) -> None:
    narrow = ChameleonVQVAEConfig(
        resolution=8, base_channels=32, channel_multiplier=(1, 1), num_res_blocks=1, num_embeddings=8, embed_dim=4
    )
    assert narrow.norm_num_groups == 32
    assert narrow.interchange_limit is None
    ImageTokenizer(ChameleonVQVAE(narrow)).save_pretrained(tmp_path)
    fewer = ImageTokenizer(ChameleonVQVAE(narrow.replace(norm_num_groups=8)))
    with pytest.warns(InterchangeWarning, match=r"norm_num_groups is 8, .*computes other codes.*norm_num_groups=32"):
        fewer.save_pretrained(tmp_path)
