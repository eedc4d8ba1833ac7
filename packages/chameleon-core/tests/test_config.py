"""ChameleonConfig: the arguments and defaults of transformers, published files, and impossible values."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chameleon_core import GenerationOptions, Quantization
from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import ConfigError, FileFormatError
from chameleon_core.training import TrainingOptions

TRANSFORMERS_DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "model_parallel_size": 1,
    "swin_norm": False,
    "vq_config": {},
    "vocabulary_map": None,
    "mlp_bias": False,
}

PUBLISHED_BY_OLD_RELEASES = {
    "architectures": ["ChameleonForConditionalGeneration"],
    "hidden_size": 64,
    "model_type": "chameleon",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 5000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "vq_config": {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "n_embed": 8192},
}

PUBLISHED_BY_NEW_RELEASES = {
    "dtype": "bfloat16",
    "hidden_size": 64,
    "image_token_id": None,
    "model_type": "chameleon",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"factor": 2.0, "rope_theta": 5000.0, "rope_type": "dynamic", "type": "dynamic"},
    "transformers_version": "5.23.0",
}


def test_the_defaults_are_those_of_transformers() -> None:
    config = ChameleonConfig()
    assert {name: getattr(config, name) for name in TRANSFORMERS_DEFAULTS} == TRANSFORMERS_DEFAULTS
    assert set(ChameleonConfig.__struct_fields__) == {*TRANSFORMERS_DEFAULTS, "qk_norm", "picture_grammar", "extras"}


def test_derived_properties() -> None:
    config = ChameleonConfig(hidden_size=96, num_attention_heads=6, num_key_value_heads=2)
    assert (config.head_dim, config.num_key_value_groups) == (16, 3)
    assert (config.rope_type, config.rope_factor, config.context_length) == ("default", 1.0, 4096)
    assert config.eos_token_ids == (2,)
    assert config.replace(eos_token_id=[3, 4]).eos_token_ids == (3, 4)
    assert config.replace(eos_token_id=None).eos_token_ids == ()


def test_no_number_of_key_value_heads_means_one_for_each_head() -> None:
    config = ChameleonConfig(num_attention_heads=8, num_key_value_heads=None)  # type: ignore[arg-type]
    assert config.num_key_value_heads == 8


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_rope_scaling_multiplies_the_context(kind: str, key: str) -> None:
    config = ChameleonConfig(max_position_embeddings=100, rope_scaling={key: kind, "factor": 2.5})
    assert (config.rope_type, config.rope_factor, config.context_length) == (kind, 2.5, 250)
    assert config.rope_scaling == {"type": kind, "factor": 2.5}


@pytest.mark.parametrize("published", [PUBLISHED_BY_OLD_RELEASES, PUBLISHED_BY_NEW_RELEASES])
def test_old_and_new_published_files_are_read_without_a_warning(published: dict[str, Any]) -> None:
    config = ChameleonConfig.from_dict(published)
    assert (config.rope_type, config.rope_factor, config.rope_theta) == ("dynamic", 2.0, 5000.0)
    assert config.num_key_value_groups == 2


@pytest.mark.parametrize("published", [PUBLISHED_BY_OLD_RELEASES, PUBLISHED_BY_NEW_RELEASES])
def test_what_was_written_is_read_back_equal(published: dict[str, Any], tmp_path: Path) -> None:
    config = ChameleonConfig.from_dict(published)
    config.save_pretrained(tmp_path)
    assert ChameleonConfig.from_pretrained(tmp_path) == config


def test_rope_is_written_for_old_and_new_readers() -> None:
    data = ChameleonConfig(rope_theta=5000.0, rope_scaling={"rope_type": "linear", "factor": 2}).to_dict()
    assert data["rope_theta"] == 5000.0
    assert data["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert data["rope_parameters"] == {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    assert ChameleonConfig().to_dict()["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}


def test_a_written_config_says_which_model_it_is() -> None:
    data = ChameleonConfig().to_dict()
    assert data["model_type"] == "chameleon"
    assert data["architectures"] == ["ChameleonForConditionalGeneration"]


def test_the_extension_is_written_only_where_it_is_used() -> None:
    assert "qk_norm" not in ChameleonConfig().to_dict()
    config = ChameleonConfig(qk_norm=False)
    assert ChameleonConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1.0},
    ],
)
def test_two_descriptions_of_rope_that_differ_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"rope_parameters and rope_(scaling|theta) differ"):
        ChameleonConfig.from_dict(
            {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": parameters}
        )


def test_null_means_the_default_where_transformers_allows_it() -> None:
    nullable = ["attention_bias", "attention_dropout", "model_parallel_size", "swin_norm", "rope_theta"]
    config = ChameleonConfig.from_dict(dict.fromkeys([*nullable, "rope_scaling", "rope_parameters"]))
    assert config == ChameleonConfig()


def test_unknown_keys_of_a_file_are_reported_kept_and_written_back() -> None:
    with pytest.warns(UserWarning, match=r"'hiden_size' \(did you mean 'hidden_size'\?\)"):
        config = ChameleonConfig.from_dict({"hiden_size": 64})
    assert config.to_dict()["hiden_size"] == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ChameleonConfig(hiden_size=64),
            "ChameleonConfig has no field 'hiden_size'. Did you mean 'hidden_size'?",
        ),  # type: ignore[call-arg]
        (lambda: ChameleonConfig().replace(hiden_size=64), "ChameleonConfig has no field 'hiden_size'. Did you mean"),
        (
            lambda: GenerationOptions(temprature=1),
            "GenerationOptions has no field 'temprature'. Did you mean 'temperature'?",
        ),  # type: ignore[call-arg]
        (lambda: GenerationOptions().replace(temprature=1), "Did you mean 'temperature'?"),  # type: ignore[call-arg]
        (lambda: GenerationOptions(max_length=9), "GenerationOptions has no field 'max_length': use max_new_tokens,"),  # type: ignore[call-arg]
        (lambda: GenerationOptions.published(eos_token_id=2), "use eos_token_ids, or the argument of generate"),  # type: ignore[call-arg]
        (lambda: GenerationOptions(streamer=None), "use stream_ids of the model or Chameleon.stream"),  # type: ignore[call-arg]
        (lambda: GenerationOptions(stopping_criteria=[]), "use stop_strings or stop_ids, or the argument of generate"),  # type: ignore[call-arg]
        (lambda: GenerationOptions(num_return_sequences=2), "how often each row is sampled"),  # type: ignore[call-arg]
        (
            lambda: GenerationOptions.published(xyz=1),  # type: ignore[call-arg]
            "GenerationOptions has no field 'xyz'. The fields are cache_implementation,",
        ),
        (lambda: TrainingOptions(steps=1, zloss=0), "TrainingOptions has no field 'zloss'. Did you mean 'z_loss'?"),  # type: ignore[call-arg]
        (lambda: Quantization("int4", skp=()), "Quantization has no field 'skp'. Did you mean 'skip'?"),  # type: ignore[call-arg]
        (
            lambda: ChameleonConfig(hiden_size=64, vocab_siz=2),  # type: ignore[call-arg]
            "has no fields 'hiden_size', 'vocab_siz'. Did you mean 'hidden_size' and 'vocab_size'?",
        ),
    ],
)
def test_an_unknown_field_is_an_error_with_the_closest_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_misspelt_value_is_an_error_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"TrainingOptions\.schedule: .* Did you mean 'cosine'\?"):
        TrainingOptions(steps=1, schedule="cosin")  # type: ignore[arg-type]


def test_a_dataclass_of_options_keeps_its_signature_and_is_pickled() -> None:
    assert list(inspect.signature(Quantization).parameters) == ["method", "options", "skip"]
    quantization = Quantization("int4", {"group_size": 64})
    assert pickle.loads(pickle.dumps(quantization)) == copy.deepcopy(quantization) == quantization


def test_a_field_that_must_be_given_is_named() -> None:
    with pytest.raises(TypeError, match="steps"):
        TrainingOptions()  # type: ignore[call-arg]


def test_a_config_is_copied_pickled_and_inspected_as_any_struct() -> None:
    config = ChameleonConfig(hidden_size=64, vocabulary_map={"a": 1})
    assert pickle.loads(pickle.dumps(config)) == copy.copy(config) == copy.deepcopy(config) == config
    assert msgspec.convert({"hidden_size": 64, "vocabulary_map": {"a": 1}}, ChameleonConfig) == config
    assert "hidden_size" in inspect.signature(ChameleonConfig).parameters


def test_a_repr_has_what_differs_from_the_defaults_and_the_size_of_what_is_large() -> None:
    assert repr(ChameleonConfig()) == "ChameleonConfig()"
    names = {f"name{index}": index for index in range(65536)}
    config = ChameleonConfig(hidden_size=64, vocabulary_map=names, vq_config={"resolution": 32})
    expected = "ChameleonConfig(hidden_size=64, vq_config={'resolution': 32}, vocabulary_map=<65536 names>)"
    assert repr(config) == expected
    assert repr(TrainingOptions(steps=5000)) == "TrainingOptions(steps=5000)"
    assert len(repr(GenerationOptions.published()).splitlines()) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: Expected `int` >= 1; got 0"),
        ({"hidden_size": 4097}, "num_attention_heads must divide hidden_size (4097); got 32"),
        ({"hidden_size": 96}, "even width, which RoPE rotates in pairs; got hidden_size 96 / 32 heads = 3"),
        ({"num_key_value_heads": 5}, "num_key_value_heads must divide num_attention_heads (32); got 5"),
        ({"model_parallel_size": 3}, "model_parallel_size must divide num_attention_heads (32); got 3"),
        ({"hidden_act": "silo"}, "hidden_act: Invalid enum value 'silo', allowed: ['silu', 'gelu',"),
        ({"attention_dropout": 1.5}, "attention_dropout: Expected `float` <= 1.0"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps: Expected `float` > 0.0"),
        ({"rope_theta": float("inf")}, "rope_theta must be finite"),
        ({"rms_norm_eps": 1e295}, "rms_norm_eps must be finite and fit float32, 1.18e-38…3.4e+38; got 1e+295"),
        ({"rms_norm_eps": 1e-300}, "rms_norm_eps must be finite and fit float32"),
        ({"rope_theta": 1e39}, "rope_theta must be finite and fit float32"),
        ({"initializer_range": 1e39}, "initializer_range must be finite and fit float32"),
        ({"initializer_range": 1e-39}, "initializer_range must be finite and fit float32"),
        ({"use_cache": "yes"}, "use_cache: Expected `bool`, got `str`"),
        ({"num_hidden_layers": True}, "num_hidden_layers: Expected `int`, got `bool`"),
        ({"pad_token_id": -1}, "pad_token_id"),
        ({"bos_token_id": 65536}, "bos_token_id must be an id from 0 to vocab_size - 1 (65535); got 65536"),
        ({"eos_token_id": [2, 70000]}, "eos_token_id must be an id from 0 to vocab_size - 1 (65535); got 70000"),
        ({"vocabulary_map": {"a": 65536}}, "vocabulary_map['a'] must be an id from 0"),
        ({"vocabulary_map": {"a": -1}}, "vocabulary_map: Expected `int` >= 0"),
        ({"rope_scaling": "linear"}, "rope_scaling must be a mapping or None; got 'linear'"),
        ({"rope_scaling": {"factor": 2.0}}, "'type' must be 'linear' or 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'type' must be 'linear' or 'dynamic'"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2.0}}, "'type' must be 'linear' or 'dynamic'"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "'type' must be"),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, "'factor' must be a number in (1, 1,000,000]; got 1.0"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' must be a number in (1, 1,000,000]; got None"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}},
            "unknown keys ['beta']; allowed: 'type', 'factor'",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "hidden_size": 64}, "'dynamic' needs heads wider than 2"),
    ],
)
def test_impossible_values_are_refused_with_the_field_and_its_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ChameleonConfig(**values)
    assert message in str(caught.value)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"vocab_size": 0}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: ChameleonConfig\.vocab_size"):
        ChameleonConfig.from_pretrained(tmp_path)
    path.write_text('{"vocab_size": 1', encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"config\.json is not valid JSON"):
        ChameleonConfig.from_pretrained(tmp_path)


def test_the_config_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="model_type is 'llama', expected 'chameleon'"):
        ChameleonConfig.from_dict({"model_type": "llama"})


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_act": "\ud800"},
        {"vocab_size": "\udfff"},
        {"extras": {"\ud800": 1}},
        {"extras": {"a": [["\udc00"]]}},
        {"vq_config": {"a": "\ud800"}},
        {"vocabulary_map": {"\ud800": 1}},
        {"vocabulary_map": {"a": "\ud800"}},
        {"rope_scaling": {"type": "\ud800"}},
    ],
    ids=ascii,
)
def test_half_of_a_surrogate_pair_in_a_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        ChameleonConfig(**fields)


def test_a_value_that_holds_itself_is_refused() -> None:
    values: list[Any] = []
    values.append(values)
    with pytest.raises(ConfigError, match="nests collections too deep, or one in itself"):
        ChameleonConfig(extras={"a": values})


@pytest.mark.parametrize("name", ["vocab_size", "hidden_act", "extras", "pad_token_id", "rope_theta"])
def test_an_integer_of_thousands_of_digits_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ChameleonConfig(**{name: 10**5000})
