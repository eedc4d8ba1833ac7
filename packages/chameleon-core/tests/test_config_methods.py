"""What users of ``transformers`` do with a configuration: assign, update, write, read by name and from the Hub."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonModel, quantize_model
from chameleon_core.errors import ConfigError, MissingFileError, MissingPackageError
from chameleon_core.testing import make_config, make_model

SMALL = make_config(vocabulary_map=None)


def small() -> ChameleonConfig:
    return copy.copy(SMALL)


# Attributes.


def test_fields_are_assigned_one_after_the_other_and_checked_together_where_a_model_is_made() -> None:
    config = small()
    config.hidden_size = 48
    config.num_attention_heads = 6
    config.num_key_value_heads = 3
    assert ChameleonModel(config).layers[0].self_attn.q_proj.weight.shape == (48, 48)
    other = small()
    other.num_attention_heads = 5
    with pytest.raises(ConfigError, match="num_attention_heads must divide hidden_size"):
        ChameleonModel(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 0), ("hidden_act", "swish"), ("use_cache", "yes"), ("rope_scaling", 3), ("vq_config", 3)],
)
def test_a_value_is_checked_where_it_is_assigned(name: str, value: Any) -> None:
    config = small()
    with pytest.raises(ConfigError, match=name):
        setattr(config, name, value)
    assert config == SMALL


def test_a_model_keeps_its_shape_and_takes_what_it_reads_anew() -> None:
    model = ChameleonModel(small())
    model.config.use_cache = False
    model.config.pad_token_id = 5
    model.config.eos_token_id = [2, 3]
    with pytest.raises(ConfigError, match=r"keeps its hidden_size \(32\)\. .*config\.replace\(hidden_size=\.\.\.\)"):
        model.config.hidden_size = 64
    with pytest.raises(ConfigError, match="pad_token_id must be an id from 0 to"):
        model.config.pad_token_id = 10**6
    assert model.config.pad_token_id == 5
    with pytest.raises(ConfigError, match="keeps its vq_config"):
        model.config.vq_config = {}
    free = copy.deepcopy(model.config)
    free.hidden_size = 64
    assert (free.hidden_size, model.config.hidden_size) == (64, 32)


def quantized(model: ChameleonForConditionalGeneration) -> ChameleonForConditionalGeneration:
    quantize_model(model, "int8")
    return model


def resized(model: ChameleonForConditionalGeneration) -> ChameleonForConditionalGeneration:
    model.resize_token_embeddings(model.config.vocab_size + 8)
    return model


def pickled(model: ChameleonForConditionalGeneration) -> ChameleonForConditionalGeneration:
    return pickle.loads(pickle.dumps(model))


def loaded(model: ChameleonForConditionalGeneration, folder: Path) -> Any:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def loaded_bare(model: ChameleonForConditionalGeneration, folder: Path) -> Any:
    model.save_pretrained(folder)
    return ChameleonModel.from_pretrained(folder)


@pytest.mark.parametrize("change", [quantized, resized, copy.deepcopy, pickled, loaded, loaded_bare])
def test_a_model_keeps_its_shape_however_it_came_about(change: Any, tmp_path: Path) -> None:
    model = make_model()
    changed = change(model, tmp_path / "model") if change in (loaded, loaded_bare) else change(model)
    with pytest.raises(ConfigError, match="keeps its hidden_size"):
        changed.config.hidden_size = 64
    changed.config.use_cache = False
    assert changed.base_model.config is changed.config


def test_several_fields_are_changed_at_once_or_not_at_all() -> None:
    config = small()
    config.update({"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 6})
    assert config.head_dim == 8
    with pytest.raises(ConfigError, match="must divide"):
        config.update({"use_cache": False, "num_attention_heads": 5})
    assert config.use_cache
    assert config.num_attention_heads == 6


def test_what_every_configuration_of_transformers_has_is_there() -> None:
    config = ChameleonConfig(torch_dtype=torch.bfloat16, num_labels=3, architectures=["A"], return_dict=True)
    assert config.dtype is config.torch_dtype is torch.bfloat16
    assert config.num_labels == 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert ChameleonConfig(dtype="float16").dtype is torch.float16
    plain = ChameleonConfig()
    assert plain.model_type == ChameleonConfig.model_type == "chameleon"
    assert (plain.num_labels, plain.problem_type, plain.name_or_path) == (2, None, "")
    assert (plain.is_encoder_decoder, plain.output_attentions, plain.return_dict) == (False, False, True)
    assert plain.keys_to_ignore_at_inference == ["past_key_values"]
    assert not hasattr(plain, "quantization_config")
    assert plain.get_text_config() is plain.get_text_config(decoder=True) is plain
    assert plain.image_token_id is None
    assert make_config().image_token_id == (make_config().vocabulary_map or {})["<image>"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("output_attentions", True, "pass output_attentions=True to the model's call"),
        ("return_dict", False, "pass return_dict=False to the model's call"),
        ("is_encoder_decoder", True, "no encoder"),
        ("attn_implementation", "eager", "pass attn_implementation to the model"),
        ("chunk_size_feed_forward", 8, "isn't cut"),
        ("temperature", 0.5, "set it on model.generation_config"),
        ("hiden_size", 8, "Did you mean 'hidden_size'"),
        ("project", "x", r"config\.extras\['project'\] = "),
        ("head_dim", 8, "follows from the fields"),
    ],
)
def test_what_would_have_no_effect_is_refused(name: str, value: Any, said: str) -> None:
    config = small()
    with pytest.raises(ConfigError, match=said):
        setattr(config, name, value)
    with pytest.raises(ConfigError, match=said):
        config.update({name: value})
    assert config == SMALL


def test_rope_is_described_by_one_mapping_or_by_two_fields() -> None:
    config = ChameleonConfig(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0})
    assert (config.rope_theta, config.rope_scaling) == (500.0, {"type": "linear", "factor": 2.0})
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10.0}
    assert (config.rope_theta, config.rope_scaling) == (10.0, None)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10.0}


def test_the_image_tokenizer_s_entries_are_attributes() -> None:
    config = ChameleonConfig()
    assert (config.vq_config.resolution, config.vq_config.num_embeddings) == (512, 8192)  # type: ignore[union-attr]
    given = types.SimpleNamespace(to_dict=lambda: {"resolution": 256, "model_type": "chameleon_vqgan"})
    config = ChameleonConfig(vq_config=given)
    assert config.vq_config == {"resolution": 256, "model_type": "chameleon_vqgan"}
    config.vq_config.resolution = 128  # type: ignore[union-attr]
    assert config.to_dict()["vq_config"]["resolution"] == 128
    assert config.vq_config.to_dict()["embed_dim"] == 256  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(config)).vq_config.resolution == 128
    with pytest.raises(ConfigError, match="Did you mean 'resolution'"):
        config.vq_config.resolutoin = 3  # type: ignore[union-attr]
    assert ChameleonConfig(vq_config=None) == ChameleonConfig()


def test_a_configuration_is_made_of_its_own_mapping() -> None:
    config = make_config(rope_scaling={"type": "linear", "factor": 2.0}, dtype="bfloat16")
    assert ChameleonConfig(**config.to_dict()) == config
    assert ChameleonConfig.from_dict(config.to_dict()) == config
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert config != make_config()


# Files.


def test_json_has_what_differs_or_everything(tmp_path: Path) -> None:
    config = ChameleonConfig(hidden_size=64)
    short, long = (json.loads(config.to_json_string(use_diff=use_diff)) for use_diff in (True, False))
    assert short.keys() == {"model_type", "architectures", "hidden_size"}
    assert long == config.to_dict()
    config.to_json_file(tmp_path / "other.json")
    assert ChameleonConfig.from_json_file(tmp_path / "other.json") == config
    assert ChameleonConfig.from_pretrained(tmp_path / "other.json") == config


def test_a_folder_a_subfolder_and_fields_that_replace_its_own(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path / "part")
    assert ChameleonConfig.from_pretrained(tmp_path, subfolder="part") == SMALL
    found = ChameleonConfig.from_pretrained(str(tmp_path / "part"), use_cache=False, attention_dropout=0.5)
    assert (found.use_cache, found.attention_dropout) == (False, 0.5)
    found, unused = ChameleonConfig.from_pretrained(
        tmp_path / "part", use_cache=False, foo=1, return_unused_kwargs=True, token=None
    )
    assert (found.use_cache, unused) == (False, {"foo": 1})
    with pytest.raises(ConfigError, match="has no field 'foo'"):
        ChameleonConfig.from_pretrained(tmp_path / "part", foo=1)
    with pytest.raises(ConfigError, match="local folder, which has no revisions"):
        ChameleonConfig.from_pretrained(tmp_path / "part", revision="v2")
    assert ChameleonConfig.get_config_dict(tmp_path / "part")[0]["hidden_size"] == 32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        ("https://huggingface.co/facebook/chameleon-7b", "https://huggingface.co/facebook/chameleon-7b is a URL"),
        ("no-such-model", "no folder 'no-such-model' in .*no pretrained model named 'no-such-model'.*not a Hub id"),
    ],
)
def test_what_isnt_found_says_what_was_tried(name: str, said: str) -> None:
    with pytest.raises(MissingFileError, match=said):
        ChameleonConfig.from_pretrained(name)


# The Hub, through a stub.


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A stub of huggingface_hub, whose repositories are one folder; returns the calls."""
    asked: list[Any] = []

    def snapshot_download(repo_id: str, **arguments: Any) -> str:
        asked.append(("download", repo_id, arguments))
        return str(tmp_path / "cache")

    class HfApi:
        def create_repo(self, repo_id: str, **arguments: Any) -> Any:
            asked.append(("create", repo_id, arguments))
            return types.SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **arguments: Any) -> Any:
            asked.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir()), arguments))
            return types.SimpleNamespace(commit_url="the address")

    stub = types.ModuleType("huggingface_hub")
    stub.snapshot_download, stub.HfApi = snapshot_download, HfApi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return asked


def test_a_hub_id_is_read_with_the_arguments_of_the_hub(tmp_path: Path, hub: list[Any]) -> None:
    SMALL.save_pretrained(tmp_path / "cache" / "part")
    found = ChameleonConfig.from_pretrained(
        "acme/model", revision="refs/pr/1", subfolder="part", token="secret", cache_dir="c", force_download=True
    )
    assert found == SMALL
    given = {"revision": "refs/pr/1", "token": "secret", "cache_dir": "c", "force_download": True}
    assert hub == [("download", "acme/model", {"allow_patterns": ["part/*.json", "part/*.jinja"], **given})]


def test_a_configuration_is_uploaded(tmp_path: Path, hub: list[Any]) -> None:
    assert SMALL.push_to_hub("model", private=True, token="secret", commit_message="Hello") == "the address"
    assert hub[0] == ("create", "model", {"token": "secret", "private": True, "exist_ok": True})
    assert hub[1] == ("upload", "me/model", ["config.json"], {"commit_message": "Hello", "token": "secret"})
    SMALL.save_pretrained(tmp_path / "folder", push_to_hub=True)
    assert hub[2][:2] == ("create", "folder")
    SMALL.save_pretrained(tmp_path / "folder", push_to_hub=True, repo_id="me/other", create_pr=True)
    assert hub[4][1] == "me/other"
    assert hub[5][3]["create_pr"] is True
    with pytest.raises(ConfigError, match="repo_id belongs to an upload: pass push_to_hub=True"):
        SMALL.save_pretrained(tmp_path / "folder", repo_id="me/other")


def test_without_the_hub_s_package_there_is_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: ChameleonConfig.from_pretrained("a/b"), lambda: SMALL.push_to_hub("a/b")):
        with pytest.raises(MissingPackageError, match=r'pip install .*"\./packages/chameleon-core\[hub\]"'):
            ask()
