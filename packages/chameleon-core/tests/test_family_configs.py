"""What published files of the family have beyond our fields: read without a warning, and without a wrong hint."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from chameleon_core import ChameleonConfig, ConfigError, GenerationOptions
from chameleon_core.checkpoints import target_dtype

VQ = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "latent_channels": 256,
    "resolution": 512,
    "double_latent": False,
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "n_embed": 8192,
    "z_channels": 256,
    "double_z": False,
    "out_ch": 3,
    "_attn_implementation_autoset": False,
    "model_type": "chameleon_vqgan",
}
WRITTEN: dict[str, dict[str, Any]] = {
    "4.43": {
        "_name_or_path": "x",
        "transformers_version": "4.43.0.dev0",
        "pretraining_tp": 1,
        "torch_dtype": "bfloat16",
    },
    "4.46": {"_attn_implementation_autoset": True, "vq_config": VQ},
    "4 in full": {"torchscript": False, "pruned_heads": {}, "temperature": 1.0, "top_k": 50, "use_bfloat16": False},
    "5": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "dtype": "bfloat16", "is_decoder": False},
    "Anole": {"image_token_id": 8711, "boi_token_id": 8197, "eoi_token_id": 8196},
    "Anole's mode": {"multimodal_generation_mode": "text-only"},
    "PR 36047": {"model_type": "anole", "architectures": ["AnoleForConditionalGeneration"]},
    "Lumina-mGPT": {"z_loss_weight": 1e-5, "mask_image_logits": True, "dropout": 0.05},
    "RynnVLA": {"action_dim": 7, "time_horizon": 5},
    "null": {"hidden_act": None, "vocab_size": None, "use_cache": None, "rms_norm_eps": None, "mlp_bias": None},
    "auto": {"torch_dtype": "auto", "num_hidden_layers": "auto", "dtype": "auto"},
    "whole floats": {"hidden_size": 4096.0, "num_hidden_layers": 32.0, "eos_token_id": [2.0]},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_published_files_have_is_read_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = ChameleonConfig.from_dict({"model_type": "chameleon", **WRITTEN[name]})
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (4096, 32, 65536)
    assert target_dtype("auto", config) == (
        None if name != "4.43" and name != "5" else target_dtype("bfloat16", config)
    )


def test_heads_of_keys_and_values_that_are_null_are_as_many_as_queries() -> None:
    config = ChameleonConfig.from_dict({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None})
    assert config.num_key_value_heads == 4


def test_a_number_that_is_not_whole_is_still_refused() -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        ChameleonConfig.from_dict({"num_hidden_layers": 2.5})


def test_an_option_of_generation_in_a_config_is_named_where_it_would_change_something() -> None:
    with pytest.warns(UserWarning, match="kept without using 'temperature'"):
        ChameleonConfig.from_dict({"temperature": 0.6, "top_p": 1.0})


def test_an_architecture_says_how_pictures_are_written_unless_the_file_does() -> None:
    lumina = {"architectures": ["ChameleonXLLMXForConditionalGeneration"]}
    assert ChameleonConfig.from_dict(lumina).picture_grammar == "lumina"
    assert ChameleonConfig.from_dict({**lumina, "picture_grammar": "chameleon"}).picture_grammar == "chameleon"


def test_the_folder_of_an_image_tokenizer_alone_is_refused_with_what_takes_it() -> None:
    with pytest.raises(ConfigError, match=r"an image tokenizer alone, .* Pass the folder as image_tokenizer="):
        ChameleonConfig.from_dict({"model_type": "chameleon_vqgan"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"top_k": 0, "temperature": 0.0, "do_sample": False}, {}),
        ({"top_k": 2000.0, "do_sample": True}, {"top_k": 2000, "do_sample": True}),
        ({"eos_token_id": 7.0, "max_new_tokens": 12.0}, {"eos_token_ids": (7,), "max_new_tokens": 12}),
        ({"multimodal_generation_mode": "text-only"}, {}),
        ({"multimodal_generation_mode": "image-only"}, {"modality": "image"}),
        ({"multimodal_generation_mode": "interleaved-text-image"}, {"modality": "interleaved"}),
        ({"multimodal_generation_mode": "unrestricted", "modality": "text"}, {}),
    ],
)
def test_options_of_published_files_are_honoured_in_silence(given: dict[str, Any], expected: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = GenerationOptions.from_file_dict(given, ChameleonConfig())
    assert options.replace(extras={}) == GenerationOptions(**expected)
    again = GenerationOptions.from_file_dict(options.to_file_dict(ChameleonConfig()), ChameleonConfig())
    assert again.replace(extras={}) == options.replace(extras={})


@pytest.mark.parametrize(
    "given",
    [
        {"cache_implementation": "hybrid"},
        {"multimodal_generation_mode": "video"},
        {"temperature": -1.0, "do_sample": True},
        {"top_k": "auto"},
        {"cfg_scale": 3.0},
    ],
)
def test_options_that_cannot_be_honoured_are_said_once_and_stop_nothing(given: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GenerationOptions.from_file_dict(given, ChameleonConfig())
    assert len(caught) == 1
    assert next(iter(given)) in str(caught[0].message)
