"""The arguments of ``from_pretrained`` and ``save_pretrained`` in ``transformers``: translated, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chameleon_core import (
    ArgumentError,
    BitsAndBytesConfig,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonModel,
    ConfigError,
    MissingPackageError,
    Quantization,
    WeightsError,
)
from chameleon_core.compat.bitsandbytes import quantization_of
from chameleon_core.compat.loading import attention_name
from chameleon_core.compat.placement import place, placement_of
from chameleon_core.testing import make_config, make_model

IDS = torch.tensor([[0, 30, 31, 32]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make_model().save_pretrained(path / "part")
    return path


def load(folder: Path, **arguments: Any) -> ChameleonForConditionalGeneration:
    return ChameleonForConditionalGeneration.from_pretrained(folder / "part", **arguments)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16], ids=str)
def test_torch_dtype_is_dtype(folder: Path, dtype: Any) -> None:
    assert load(folder, torch_dtype=dtype).dtype is torch.bfloat16
    with pytest.raises(ConfigError, match="pass dtype alone"):
        load(folder, torch_dtype=dtype, dtype="float16")


@pytest.mark.parametrize(
    "device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu"), {"model": "cpu", "lm_head": "cpu"}], ids=str
)
def test_device_map_is_the_device_of_a_whole_model(folder: Path, device_map: Any) -> None:
    model = load(folder, device_map=device_map)
    assert model.device == torch.device("cpu")
    assert not hasattr(model, "hf_device_map")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device_map", ["cuda", 0, {"": 0}, {"model": 0, "lm_head": "cpu"}], ids=str)
def test_a_device_that_isnt_there_is_an_error(folder: Path, device_map: Any) -> None:
    with pytest.raises(ConfigError, match=r"torch can't use the device .* here: .*device='cpu' always works"):
        load(folder, device_map=device_map)


@pytest.mark.parametrize(
    ("device_map", "said"),
    [
        ({"": "disk"}, "use 'cpu'"),
        ({}, "is empty"),
        (1.5, "expected a device"),
        ({"": None}, "expected a device"),
    ],
    ids=["disk", "empty", "a number", "none"],
)
def test_an_impossible_placement_is_refused(folder: Path, device_map: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(folder, device_map=device_map)


def test_modules_on_several_devices_compute_the_same(folder: Path) -> None:
    pytest.importorskip("accelerate")
    model, other = load(folder), load(folder)
    # To torch these are two devices, with one memory.
    placement = placement_of({"": "cpu", "model.layers.1": "cpu:0", "lm_head": "cpu:0"})
    assert isinstance(placement, dict)
    place(model, placement)
    assert torch.equal(logits(model), logits(other))
    assert torch.equal(model.generate(IDS, max_new_tokens=4), other.generate(IDS, max_new_tokens=4))
    assert model.hf_device_map == {"": "cpu", "model.layers.1": "cpu:0", "lm_head": "cpu:0"}
    assert hasattr(model.lm_head, "_hf_hook")
    with pytest.raises(WeightsError, match="device_map has no device for lm_head"):
        place(other, {"model": torch.device("cpu")})


def test_several_devices_need_accelerate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install accelerate"):
        place(make_model(), {"": torch.device("cpu")})


def test_a_configuration_and_single_fields_replace_the_folder_s(folder: Path) -> None:
    model = load(folder, use_cache=False, attention_dropout=0.5)
    assert (model.config.use_cache, model.model.layers[0].self_attn.dropout) == (False, 0.5)
    config = ChameleonConfig.from_pretrained(folder / "part", rms_norm_eps=1e-3)
    for given in (config, None):
        assert load(folder, config=given).config.rms_norm_eps == (1e-3 if given else 1e-5)
    assert load(folder, config=str(folder / "part")).config.vocabulary_map is not None
    with pytest.raises(ConfigError, match="output_attentions can only be False"):
        load(folder, output_attentions=True)
    with pytest.raises(WeightsError, match="Of another shape"):
        load(folder, intermediate_size=64)


def test_weights_are_given_in_place_of_the_folder_s(folder: Path) -> None:
    other = make_model(seed=1)
    given = load(folder, state_dict=other.state_dict())
    assert torch.equal(logits(given), logits(other))
    alone = ChameleonForConditionalGeneration.from_pretrained(None, config=other.config, state_dict=other.state_dict())
    assert torch.equal(logits(alone), logits(other))
    with pytest.raises(ConfigError, match="needs both config and state_dict"):
        ChameleonForConditionalGeneration.from_pretrained(None)


def test_a_subfolder_and_the_arguments_of_the_hub(folder: Path) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(
        pretrained_model_name_or_path=folder, subfolder="part", token=None, cache_dir="c", local_files_only=True
    )
    assert model.source == folder / "part"
    with pytest.raises(ConfigError, match="has no revisions"):
        load(folder, revision="v2")


def test_what_loading_found_is_told_on_request(folder: Path) -> None:
    found: Any = load(folder, output_loading_info=True)
    model, info = found
    assert isinstance(model, ChameleonForConditionalGeneration)
    assert info == {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


ACCEPTED = {
    "low_cpu_mem_usage": True,
    "use_safetensors": True,
    "trust_remote_code": False,
    "weights_only": True,
    "ignore_mismatched_sizes": False,
    "variant": None,
    "proxies": None,
    "attn_implementation": None,
    "quantization_config": None,
    "force_download": False,
}


def test_values_that_mean_what_happens_anyway_are_accepted(folder: Path) -> None:
    assert torch.equal(logits(load(folder, **ACCEPTED)), logits(load(folder)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"low_cpu_mem_usage": False}, "never held twice"),
        ({"use_safetensors": False}, "pickles aren't read"),
        ({"weights_only": False}, "pickles aren't read"),
        ({"ignore_mismatched_sizes": True}, "random layers"),
        ({"variant": "fp16"}, "files of a variant aren't read"),
        ({"proxies": {"https": "x"}}, "set HTTPS_PROXY"),
        ({"tp_plan": "auto"}, "in one process"),
        ({"gguf_file": "x.gguf"}, "pass the path of the file in place of the folder"),
        ({"device": "cuda", "device_map": "cpu"}, "pass one of them"),
        ({"max_memory": {0: "1GB"}}, "bounds device_map='auto'"),
        ({"quantization": "int8", "load_in_8bit": True}, "exclude each other"),
        ({"token": 3}, "token must be str or bool or None"),
        ({"attn_implementation": 3}, "must be the name of an attention backend"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_values_are_refused_with_the_reason(folder: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(folder, **arguments)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch_dtyp", "Did you mean 'torch_dtype'"),
        ("hiden_size", "Did you mean 'hidden_size'"),
        ("xyz", "The arguments"),
    ],
)
def test_an_unknown_argument_is_an_error_with_the_closest_one(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        load(folder, **{name: 1})


def test_attention_is_named_as_in_transformers() -> None:
    assert attention_name(None) == "sdpa"
    assert attention_name("flex_attention") == "flex"
    assert attention_name("flash_attention_2") == "flash_attention_2"
    assert attention_name({"": "eager", "vq_config": "sdpa"}) == "eager"


# Quantization.


def test_bitsandbytes_is_asked_for_by_its_configuration() -> None:
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    expected = Quantization("bnb-nf4", {"double_quant": False, "compute_dtype": "bfloat16"}, skip=("lm_head",))
    assert quantization_of(four) == quantization_of(four.to_dict()) == expected
    assert quantization_of(SimpleNamespace(to_dict=four.to_dict)) == expected
    eight = BitsAndBytesConfig(
        load_in_8bit=True, llm_int8_threshold=3.0, llm_int8_skip_modules=["lm_head", "down_proj"]
    )
    assert quantization_of(eight) == Quantization("bnb-int8", {"threshold": 3.0}, skip=("lm_head*", "*down_proj"))
    assert quantization_of("int4") == "int4"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "expected one of them to be True"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "expected one of them to be True"),
        ({"load_in_4bit": True}, "pass bnb_4bit_quant_type='nf4'"),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight can't be True"),
        ({"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True}, "can't be True"),
        ({"load_in_4bit": True, "bnb_4bit_quant_storage": torch.float32}, "stored as bytes"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": "lm_head"}, "must be a list of names"),
    ],
    ids=["neither", "both", "fp4", "16 bits", "offload", "storage", "a str"],
)
def test_a_field_that_isnt_available_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        quantization_of(BitsAndBytesConfig(**fields))


def test_other_quantizers_are_named_with_what_replaces_them() -> None:
    with pytest.raises(ConfigError, match=r"asks for 'gptq', .*quantization='int4'"):
        quantization_of({"quant_method": "gptq", "bits": 4})
    with pytest.raises(ConfigError, match=r"no field 'load_in_4bits'. Did you mean 'load_in_4bit'"):
        BitsAndBytesConfig(load_in_4bits=True)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="is a int"):
        quantization_of(4)


# The bare model.


def test_the_bare_model_is_loaded_and_saved(folder: Path, tmp_path: Path) -> None:
    whole = load(folder)
    bare = ChameleonModel.from_pretrained(folder, subfolder="part", torch_dtype="float32")
    assert not bare.training
    with torch.no_grad():
        expected = whole.model(IDS).last_hidden_state
        assert torch.equal(bare(IDS).last_hidden_state, expected)
    bare.save_pretrained(tmp_path / "bare")
    assert "ChameleonModel" in (tmp_path / "bare" / "config.json").read_text()
    again = ChameleonModel.from_pretrained(tmp_path / "bare")
    with torch.no_grad():
        assert torch.equal(again(IDS).last_hidden_state, expected)
    with pytest.raises(WeightsError, match=r"Missing: lm_head\.weight"):
        ChameleonForConditionalGeneration.from_pretrained(tmp_path / "bare")


def test_a_bare_model_s_names_may_lack_their_prefix(tmp_path: Path) -> None:
    bare = make_model().model
    state = bare.state_dict()
    assert "embed_tokens.weight" in state
    again = ChameleonModel.from_pretrained(None, config=bare.config, state_dict=state)
    assert torch.equal(again.embed_tokens.weight, bare.embed_tokens.weight)


# Saving.


def test_saving_takes_what_scripts_pass(tmp_path: Path) -> None:
    model, other = make_model(), make_model(seed=1)
    model.save_pretrained(
        save_directory=tmp_path / "a",
        is_main_process=True,
        save_function=torch.save,
        safe_serialization=True,
        state_dict=other.state_dict(),
        token=None,
    )
    assert torch.equal(logits(ChameleonForConditionalGeneration.from_pretrained(tmp_path / "a")), logits(other))
    model.save_pretrained(tmp_path / "b", is_main_process=False)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"safe_serialization": False}, ConfigError, "only safetensors is written: a pickle may run code"),
        ({"variant": "fp16"}, ConfigError, "variant"),
        ({"repo_id": "a/b"}, ConfigError, "pass push_to_hub=True"),
        ({"shard_size": 3}, ArgumentError, "no argument 'shard_size'"),
    ],
    ids=["pickles", "variant", "repository", "unknown"],
)
def test_saving_refuses_what_isnt_done(tmp_path: Path, arguments: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        make_model().save_pretrained(tmp_path, **arguments)
    with pytest.raises(ArgumentError, match="needs the folder"):
        make_model().save_pretrained()


def test_a_model_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class HfApi:
        def create_repo(self, repo_id: str, **arguments: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **arguments: Any) -> Any:
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir()), arguments))
            return SimpleNamespace(commit_url="the address")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=HfApi))
    model = make_model(make_config())
    assert model.push_to_hub("me/model", revision="v2", max_shard_size="10KB") == "the address"
    model.save_pretrained(tmp_path / "named", push_to_hub=True, token="secret")
    (first, second) = calls
    assert first[0] == "me/model"
    assert first[2]["revision"] == "v2"
    assert "model.safetensors.index.json" in first[1]
    assert second[0] == "named"
    assert second[1] == ["config.json", "generation_config.json", "model.safetensors"]
