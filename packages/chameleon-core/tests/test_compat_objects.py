"""Objects that users of ``transformers`` hold: caches, configurations, options of generation."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, ConfigError, GenerationConfig
from chameleon_core.errors import ArgumentError, InputError, UnknownAttributeError
from chameleon_core.testing import make_config, make_model
from chameleon_core.vq_fields import VQFields

IDS = torch.tensor([[0, 25, 26, 30], [0, 40, 41, 42]])


@pytest.fixture
def model() -> ChameleonForConditionalGeneration:
    return make_model()


# Caches.


class FixedCache:
    """A cache as ``StaticCache`` of ``transformers`` is one: memory of a fixed length, all of which it returns."""

    is_compileable = True

    def __init__(self, length: int) -> None:
        self.length = length
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.filled: dict[int, int] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled.get(layer_idx, 0)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.length

    def update(self, key_LKTD: Tensor, value_LKTD: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        rows, heads, count, width = key_LKTD.shape
        empty = key_LKTD.new_full((2, rows, heads, self.length, width), float("nan"))
        keys, values = self.stored.setdefault(layer_idx, (empty[0], empty[1]))
        start = self.get_seq_length(layer_idx)
        keys[:, :, start : start + count], values[:, :, start : start + count] = key_LKTD, value_LKTD
        self.filled[layer_idx] = start + count
        return keys, values


@torch.no_grad()
def test_a_cache_of_a_fixed_length_is_filled_and_what_is_empty_in_it_is_not_seen(
    model: ChameleonForConditionalGeneration,
) -> None:
    cache = FixedCache(6)
    model(IDS[:, :3], past_key_values=cache)
    torch.testing.assert_close(model(IDS[:, 3:], past_key_values=cache).logits, model(IDS).logits[:, 3:])
    assert cache.get_seq_length() == 4


def test_a_cache_that_is_too_short_says_its_length(model: ChameleonForConditionalGeneration) -> None:
    with pytest.raises(InputError, match=r"FixedCache of 3 positions, too few for 4\. Make it longer: max_cache_len"):
        model(IDS, past_key_values=FixedCache(3))


def test_a_cache_answers_what_users_of_transformers_ask(model: ChameleonForConditionalGeneration) -> None:
    new = model.new_cache(2)
    assert not new.is_initialized
    cache = model(IDS).past_key_values
    assert cache.is_initialized
    assert cache.is_croppable
    assert not cache.is_compileable
    assert cache.is_sliding == [False] * len(cache) == [False] * model.config.num_hidden_layers
    assert (cache.get_seq_length(), cache.get_max_length(), cache.get_query_offset()) == (4, -1, 4)
    assert cache.get_mask_sizes(3, 0) == (7, 0)
    assert cache.layers[1].get_seq_length() == 4
    cache.batch_repeat_interleave(2)
    assert cache.layers[0].keys.shape[0] == 4
    cache.reset()
    assert not cache.is_initialized


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("get_max_cache_shape", "get_max_length"),
        ("key_cache", r"layers\[index\]\.keys"),
        ("offload", "device of the model"),
        ("seen_tokens", "get_seq_length"),
        ("to_legacy_cache", r"tuple\(cache\)"),
        ("value_cache", r"layers\[index\]\.values"),
    ],
)
def test_names_of_older_caches_say_what_replaces_them(
    model: ChameleonForConditionalGeneration, name: str, instead: str
) -> None:
    cache = model.new_cache(1)
    assert not hasattr(cache, name)
    with pytest.raises(UnknownAttributeError, match=f"KVCache has no attribute '{name}': .*{instead}"):
        getattr(cache, name)


@torch.no_grad()
def test_a_cache_takes_no_attribute_that_nothing_reads(model: ChameleonForConditionalGeneration) -> None:
    cache = model(IDS).past_key_values
    with pytest.raises(AttributeError, match="max_length"):
        cache.max_length = 3
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        torch.testing.assert_close(copied.layers[0].keys, cache.layers[0].keys)


def test_the_update_of_transformers_is_told_from_the_one_here(model: ChameleonForConditionalGeneration) -> None:
    states = torch.ones(1, 2, 1, 8)
    with pytest.raises(InputError, match=r"takes a layer's index.*make a DynamicCache"):
        model.new_cache(1).update(states, states, 0)


# Configurations.


def test_a_configuration_is_read_and_written_under_the_names_of_transformers(tmp_path: Path) -> None:
    config = make_config()
    config.save_pretrained(save_directory=tmp_path)
    assert ChameleonConfig.from_pretrained(pretrained_model_name_or_path=tmp_path) == config
    assert ChameleonConfig.get_config_dict(pretrained_model_name_or_path=tmp_path)[0]["hidden_size"] == 32
    with pytest.raises(ConfigError, match="save_directory; got neither"):
        config.save_pretrained()
    with pytest.raises(ConfigError, match="pretrained_model_name_or_path; got both"):
        ChameleonConfig.from_pretrained(tmp_path, pretrained_model_name_or_path=tmp_path)


def test_fields_beside_a_mapping_replace_its_own() -> None:
    config = ChameleonConfig.from_dict({"hidden_size": 64, "model_type": "chameleon"}, use_cache=False)
    assert (config.hidden_size, config.use_cache) == (64, False)
    with pytest.raises(ConfigError, match="no field 'banana'"):
        ChameleonConfig.from_dict({}, banana=1)
    _, others = ChameleonConfig.from_dict({}, use_cache=False, banana=1, return_unused_kwargs=True)
    assert others == {"banana": 1}


def test_fields_are_changed_by_a_text() -> None:
    config = make_config()
    config.update_from_string("hidden_size=64, use_cache=no,rms_norm_eps=0.5,hidden_act=gelu")
    assert (config.hidden_size, config.use_cache, config.rms_norm_eps, config.hidden_act) == (64, False, 0.5, "gelu")
    for text, said in {
        "banana=3": "no field 'banana'",
        "hidden_size": "takes 'name=value,name=value'",
        "use_cache=perhaps": "use_cache must be a bool",
        "hidden_size=wide": "hidden_size must be a int",
        "vocabulary_map=a": "assign it",
        "hidden_size=33": "must divide",
    }.items():
        with pytest.raises(ConfigError, match=said):
            config.update_from_string(text)
    assert config.hidden_size == 64


def test_a_configuration_is_iterated_and_validated() -> None:
    config = make_config()
    assert "hidden_size" in config
    assert set(config) == set(config.to_dict())
    config.num_attention_heads = 5
    with pytest.raises(ConfigError, match="must divide"):
        config.validate()


def test_names_that_configurations_here_lack_say_why() -> None:
    assert not hasattr(make_config(), "sub_configs")
    with pytest.raises(AttributeError, match="not by an auto class"):
        _ = make_config().register_for_auto_class


def test_a_model_takes_a_configuration_that_fits_its_weights(model: ChameleonForConditionalGeneration) -> None:
    model.config = model.config.replace(use_cache=False, eos_token_id=[2, 7])
    assert model.model.config is model.config
    assert model(IDS).past_key_values is None
    with pytest.raises(ConfigError, match=r"keeps its num_hidden_layers \(2\), and the new config has 3"):
        model.config = model.config.replace(num_hidden_layers=3)
    with pytest.raises(ConfigError, match="keeps its hidden_size"):
        model.config.hidden_size = 64


# The entry vq_config.


def test_entries_are_changed_under_known_names_alone() -> None:
    entries = VQFields(resolution=4)
    entries.update({"embed_dim": 16}, beta=0.5)
    entries |= {"num_embeddings": 32}
    assert entries.setdefault("dropout", 0.0) == 0.0
    assert (entries.embed_dim, entries.beta, entries.num_embeddings, entries.latent_channels) == (16, 0.5, 32, 256)
    for change in (
        lambda: entries.update({"embed_dimm": 3}),
        lambda: entries.update(embed_dimm=3),
        lambda: entries.setdefault("embed_dimm", 3),
        lambda: setattr(entries, "embed_dimm", 3),
        lambda: entries.__ior__({"embed_dimm": 3}),
    ):
        with pytest.raises(ConfigError, match=r"no entry 'embed_dimm'\. Did you mean 'embed_dim'"):
            change()
    entries["of_a_plugin"] = 1
    assert entries.of_a_plugin == 1


@pytest.mark.parametrize("make", [ChameleonConfig, make_config().replace])
def test_a_misspelt_entry_is_refused_where_a_configuration_is_made(make: Any) -> None:
    with pytest.raises(ConfigError, match="vq_config has no entry 'embed_dimm'"):
        make(vq_config={"embed_dimm": 3})
    config = make_config()
    with pytest.raises(ConfigError, match="vq_config has no entry 'chanel_multiplier'"):
        config.vq_config = {"chanel_multiplier": [1]}
    assert ChameleonConfig.from_dict({"vq_config": {"embed_dimm": 3}}).vq_config["embed_dimm"] == 3  # of a file


def test_entries_say_what_they_are_and_are_fixed_with_a_model(model: ChameleonForConditionalGeneration) -> None:
    entries = model.config.vq_config
    assert entries.to_dict()["model_type"] == "chameleon_vqgan"
    for change in (
        lambda: setattr(entries, "embed_dim", 3),
        lambda: entries.update(embed_dim=3),
        lambda: entries.__setitem__("embed_dim", 3),
        lambda: entries.__delitem__("resolution"),
        lambda: entries.pop("resolution"),
        entries.popitem,
        entries.clear,
    ):
        with pytest.raises(ConfigError, match="a model was made of this configuration and keeps its vq_config"):
            change()
    free = entries.copy()
    free.embed_dim = 3
    assert (type(free), free.embed_dim, entries.embed_dim) == (VQFields, 3, 256)


# Options of generation.


def test_options_of_a_model_are_written_and_read_back(model: ChameleonForConditionalGeneration, tmp_path: Path) -> None:
    model.generation_config.update(max_new_tokens=3, suppress_tokens=[5])
    model.generation_config.save_pretrained(tmp_path)
    read = model.generation_config.from_pretrained(tmp_path)
    assert isinstance(read, model.generation_config_class)
    assert (read.max_new_tokens, read.suppress_tokens, read.top_k) == (3, [5], None)
    model.generation_config.save_pretrained(tmp_path, "mine.json")
    assert GenerationConfig.from_pretrained(tmp_path, "mine.json", max_new_tokens=4).max_new_tokens == 4
    other = make_model()
    other.generation_config = read
    assert (other.generation_options.max_new_tokens, other.generation_options.forbidden_ids) == (3, (5,))
    with pytest.raises(ArgumentError, match="no argument 'banana'"):
        model.generation_config.save_pretrained(tmp_path, banana=1)


def test_options_alone_count_where_they_are_set(model: ChameleonForConditionalGeneration) -> None:
    model.generation_config.max_new_tokens = 5
    alone = GenerationConfig(no_repeat_ngram_size=1)
    assert alone.max_new_tokens is None
    written = model.generate(IDS, generation_config=alone)[:, 4:]
    assert written.shape == (2, 5)
    assert all(len(set(row)) == 5 for row in written.tolist())
    assert model.generation_config.no_repeat_ngram_size == 0
    assert GenerationConfig(top_k=3) == copy.deepcopy(GenerationConfig(top_k=3)) != GenerationConfig()


@pytest.mark.parametrize("alone", [True, False])
def test_options_are_checked_where_they_are_set(model: ChameleonForConditionalGeneration, alone: bool) -> None:
    options = GenerationConfig() if alone else model.generation_config
    for change in (
        lambda: setattr(options, "banana", 3),
        lambda: options.update(banana=3),
        lambda: options.update(top_k=-3),
        lambda: options.update(allow_custom_entries=True, banana=3),
        lambda: options.update(num_beam_groups=2),
    ):
        with pytest.raises(ConfigError):
            change()
    assert options.update(defaults_only=True, max_new_tokens=3) == {}
    options.update(defaults_only=True, max_new_tokens=9)
    assert options.max_new_tokens == 3
    assert not hasattr(options, "banana")
    options.validate(strict=True)
    assert "max_new_tokens" in list(options)
    assert json.loads(options.to_json_string())["max_new_tokens"] == 3
    assert "max_new_tokens" not in json.loads(options.to_json_string(keys_to_pop=["max_new_tokens"]))


def test_options_say_how_ids_are_found() -> None:
    for fields, mode in (
        ({}, "greedy_search"),
        ({"do_sample": True}, "sample"),
        ({"num_beams": 3}, "beam_search"),
        ({"decoding": "beam", "do_sample": True}, "beam_sample"),
        ({"prompt_lookup_num_tokens": 3}, "assisted_generation"),
        ({"decoding": {"name": "lookup"}}, "assisted_generation"),
    ):
        assert GenerationConfig(**fields).get_generation_mode() == mode
    assert GenerationConfig().get_generation_mode(assistant_model=object()) == "assisted_generation"


def test_options_of_a_configuration_and_of_a_mapping() -> None:
    assert GenerationConfig.from_model_config(make_config()).to_dict() == {
        name: getattr(make_config(), name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    with pytest.warns(UserWarning, match="left out 'banana', which nothing reads"):
        assert GenerationConfig.from_dict({"banana": 1, "top_k": 3}, top_k=4).to_dict() == {"top_k": 4}
