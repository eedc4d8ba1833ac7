"""The configuration: the arguments of transformers, strict in Python, tolerant of published files."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ConfigError
from chameleon_vq.quantizers import ema, fsq, lfq, residual
from chameleon_vq.registry import make_quantizer
from chameleon_vq.testing import configs
from chameleon_vq.training import TrainingOptions

TRANSFORMERS_DEFAULTS = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "double_latent": False,
    "latent_channels": 256,
    "resolution": 512,
    "in_channels": 3,
    "base_channels": 128,
    "channel_multiplier": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": None,
    "dropout": 0.0,
    "attn_type": "vanilla",
    "initializer_range": 0.02,
}

UPSTREAM = {
    "embed_dim": 256,
    "n_embed": 8192,
    "double_z": False,
    "z_channels": 256,
    "resolution": 512,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def test_every_argument_of_transformers_has_its_name_and_default() -> None:
    config = ChameleonVQVAEConfig()
    assert {name: getattr(config, name) for name in TRANSFORMERS_DEFAULTS} == TRANSFORMERS_DEFAULTS


def test_a_default_configuration_writes_the_arguments_of_transformers_and_no_others() -> None:
    data = ChameleonVQVAEConfig().to_dict()
    assert data.pop("model_type") == "chameleon_vqgan"
    assert set(data) == set(TRANSFORMERS_DEFAULTS)


@given(configs())
def test_a_configuration_survives_json(config: ChameleonVQVAEConfig) -> None:
    read = ChameleonVQVAEConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config.replace(attn_type="vanilla" if config.has_attention else "none")


def test_extensions_are_written_where_they_differ() -> None:
    config = ChameleonVQVAEConfig(quantizer="acme", quantizer_options={"levels": [8, 8]}, beta=0.5, out_channels=4)
    data = config.to_dict()
    assert data["quantizer"] == "acme"
    assert ChameleonVQVAEConfig.from_dict(data) == config


def test_upstream_s_names_are_read() -> None:
    config = ChameleonVQVAEConfig.from_dict(UPSTREAM)
    assert config == ChameleonVQVAEConfig(attn_resolutions=(), out_channels=3)


def test_both_names_of_a_field_may_be_given_if_they_agree() -> None:
    assert ChameleonVQVAEConfig.from_dict({"ch": 64, "base_channels": 64}).base_channels == 64
    with pytest.raises(ConfigError, match="'base_channels' are the same field and differ"):
        ChameleonVQVAEConfig.from_dict({"ch": 64, "base_channels": 32})


def test_what_transformers_writes_is_kept_without_a_warning() -> None:
    data = {**ChameleonVQVAEConfig().to_dict(), "model_type": "chameleon_vqgan", "torch_dtype": "bfloat16"}
    assert ChameleonVQVAEConfig.from_dict(data).to_dict() == data


def test_an_unknown_key_is_reported_with_the_closest_name_and_kept() -> None:
    with pytest.warns(UserWarning, match=r"f\.json: kept without using 'embed_dims' \(did you mean 'embed_dim'\?\)"):
        config = ChameleonVQVAEConfig.from_dict({"embed_dims": 3}, source="f.json")
    assert config.to_dict()["embed_dims"] == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"attn_type": "vanila"},
            r"attn_type: .*, allowed: \['vanilla', 'none'\] or None; got 'vanila'\. Did you mean 'vanilla'\?",
        ),
        ({"embed_dim": 0}, r"embed_dim: Expected `int` >= 1; got 0"),
        ({"embed_dim": "many"}, "embed_dim: Expected `int`, got `str`"),
        ({"dropout": 1.0}, "dropout: Expected `float` < 1.0"),
        ({"attn_type": "linear"}, "attn_type: Invalid enum value 'linear'"),
        ({"channel_multiplier": ()}, "channel_multiplier: Expected `array` of length >= 1"),
        ({"base_channels": 40}, "40 times channel_multiplier 1 is 40, not a multiple of norm_num_groups 32"),
        ({"norm_num_groups": 24}, "128 times channel_multiplier 1 is 128, not a multiple of norm_num_groups 24"),
        ({"resolution": 500}, "resolution 500 is not a multiple of 16, the stride of 5 levels"),
    ],
)
def test_an_impossible_value_names_the_field_and_what_is_allowed(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChameleonVQVAEConfig(**fields)  # type: ignore[arg-type]


def test_an_unknown_argument_is_refused_with_the_closest_field() -> None:
    message = r"ChameleonVQVAEConfig has no field 'embed_dims'\. Did you mean 'embed_dim'\?"
    with pytest.raises(ConfigError, match=message):
        ChameleonVQVAEConfig(embed_dims=3)  # type: ignore[call-arg]


def test_a_configuration_changes_until_a_model_is_made_of_it() -> None:
    config = ChameleonVQVAEConfig(
        resolution=8, base_channels=32, channel_multiplier=(1,), num_res_blocks=1, num_embeddings=8
    )
    config.embed_dim = 3
    with pytest.raises(ConfigError, match="embed_dim"):
        config.embed_dim = 0
    model = ChameleonVQVAE(config)
    assert model.quant_conv.out_channels == 3
    with pytest.raises(
        ConfigError, match=r"a model was made of this ChameleonVQVAEConfig and keeps its embed_dim \(3\)"
    ):
        model.config.embed_dim = 4
    assert isinstance(config, msgspec.Struct)
    wrong = config.replace()
    wrong.base_channels = 40
    with pytest.raises(ConfigError, match="norm_num_groups"):
        ChameleonVQVAE(wrong)


def test_a_configuration_is_saved_and_read_alone_and_of_a_model_s_file(tmp_path: Path) -> None:
    config = ChameleonVQVAEConfig(resolution=64, quantizer="ema")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "chameleon_vqgan"
    assert ChameleonVQVAEConfig.from_pretrained(tmp_path) == config
    assert ChameleonVQVAEConfig.from_pretrained(tmp_path / "config.json", dropout=0.5).dropout == 0.5
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon", "vq_config": config.to_dict()}))
    assert ChameleonVQVAEConfig.from_pretrained(tmp_path) == config
    assert ChameleonVQVAEConfig(**config.to_dict()) == config
    assert config.model_type == "chameleon_vqgan"


def test_a_misspelt_training_option_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"has no field 'warmup_step'\. Did you mean 'warmup_steps'\?"):
        TrainingOptions(warmup_step=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"has no field 'embed_dims'\. Did you mean 'embed_dim'\?"):
        ChameleonVQVAEConfig().replace(embed_dims=3)


PUBLIC = [
    ChameleonVQVAEConfig,
    ChameleonImageProcessor,
    TrainingOptions,
    ema.EMAOptions,
    fsq.FSQOptions,
    lfq.LFQOptions,
    residual.ResidualOptions,
]


@pytest.mark.parametrize("config", PUBLIC, ids=lambda config: config.__name__)
def test_every_field_has_a_docstring_with_its_default(config: type) -> None:
    """A docstring under the field; python doesn't keep it, so it is read from the source."""
    (body,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(body, ast.ClassDef)
    documented = {
        first.target.id: second.value.value
        for first, second in itertools.pairwise(body.body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
    }
    own = [name for name in config.__annotations__ if name not in ("aliases", "known_extras")]
    assert list(documented) == own
    for name, text in documented.items():
        assert re.search(r"default|required", str(text)), name


@pytest.mark.parametrize("size", [2**62, 2**70])
def test_sizes_beyond_those_of_any_tensor_are_the_configurations(size: int) -> None:
    with pytest.raises(ConfigError, match="'codebook' can't have the sizes of this configuration"):
        make_quantizer(ChameleonVQVAEConfig(num_embeddings=size))
