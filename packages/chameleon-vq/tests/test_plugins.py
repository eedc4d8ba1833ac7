"""The hooks of this package, through an entry point as an installed plugin has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from chameleon_vq import (
    HOOK_API_VERSION,
    BrokenPluginError,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    ConfigError,
    ImageTokenizer,
    MissingFileError,
    PluginSpec,
    Quantized,
    UnknownPluginError,
    hookimpl,
    hookspecs,
    quantizers,
    registry,
)
from chameleon_vq.plugins import PluginWarning
from chameleon_vq.quantizers import LFQ, EMACodebook, ResidualCodebooks, contract
from chameleon_vq.quantizers.contract import count_codes
from chameleon_vq.quantizers.ema import EMAOptions
from chameleon_vq.quantizers.lfq import LFQOptions
from chameleon_vq.quantizers.residual import ResidualOptions
from chameleon_vq.registry import PRETRAINED_HOOK, REGISTRY, VECTOR_QUANTIZERS_HOOK, make_quantizer

Install = Callable[..., None]
README = Path(__file__).parents[1] / "README.md"


class TwoSigns(nn.Module):
    """A quantizer of two codes per position: the signs of the first two channels."""

    num_codes = 2
    codes_per_position = 2

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        codes_BhwQ = (latents_BDhw[:, :2] > 0).long().permute(0, 2, 3, 1)
        latents = latents_BDhw + (self.lookup(codes_BhwQ) - latents_BDhw).detach()
        return Quantized(latents, codes_BhwQ, latents.sum() * 0, count_codes(codes_BhwQ, 2))

    def lookup(self, codes_BhwQ: Tensor) -> Tensor:
        return codes_BhwQ.permute(0, 3, 1, 2).float() * 2 - 1


def spec(name: str, factory: Callable[..., Any], **fields: Any) -> PluginSpec:
    return PluginSpec(name=name, factory=factory, api_version=HOOK_API_VERSION, **fields)


def tiny(quantizer: str) -> ChameleonVQVAEConfig:
    return ChameleonVQVAEConfig(
        resolution=8,
        base_channels=32,
        channel_multiplier=(1, 1),
        num_res_blocks=1,
        latent_channels=4,
        embed_dim=2,
        num_embeddings=4,
        quantizer=quantizer,
    )


def test_a_plugin_s_quantizer_is_used_by_its_name_and_saved(
    install_plugin: Install, tmp_path: Path, picture: Any
) -> None:
    install_plugin(chameleon_vq_quantizers=hookimpl(lambda: [spec("signs", lambda config: TwoSigns())]))
    tokenizer = ImageTokenizer(ChameleonVQVAE(tiny("signs")))
    assert (tokenizer.codes_per_position, tokenizer.num_codes, tokenizer.tokens_per_image) == (2, 2, 32)
    codes_BN = tokenizer.encode(picture)
    assert codes_BN.shape == (1, 32)
    assert tokenizer.decode(codes_BN)[0].size == (8, 8)
    assert tokenizer.preview(codes_BN[0, :16]).size == (8, 8)
    tokenizer.save_pretrained(tmp_path)
    again = ImageTokenizer.from_pretrained(tmp_path)
    assert again.model.config.quantizer == "signs"
    assert torch.equal(again.encode(picture), codes_BN)


def test_a_plugin_that_can_not_serve_a_configuration_says_why(install_plugin: Install) -> None:
    quantizers = [spec("picky", TwoSigns, unsupported=lambda config: f"it needs embed_dim 8, not {config.embed_dim}")]
    install_plugin(chameleon_vq_quantizers=hookimpl(lambda: quantizers))
    with pytest.raises(ConfigError, match=r"'picky' can't be used with this configuration: it needs embed_dim 8"):
        make_quantizer(tiny("picky"))


def test_a_quantizer_that_is_no_layer_is_an_error(install_plugin: Install) -> None:
    install_plugin(chameleon_vq_quantizers=hookimpl(lambda: [spec("odd", lambda config: 3)]))
    with pytest.raises(BrokenPluginError, match=r"'odd' of acme_vq .* returned 3 from factory; expected a torch\.nn"):
        make_quantizer(tiny("odd"))


def test_an_unknown_quantizer_names_what_is_installed() -> None:
    with pytest.raises(UnknownPluginError, match=r"no vector quantizer named 'codebok'\. Installed: codebook.*Did you"):
        ChameleonVQVAE(tiny("codebok"))


def test_a_plugin_can_not_take_a_built_in_s_name(install_plugin: Install) -> None:
    install_plugin(chameleon_vq_quantizers=hookimpl(lambda: [spec("codebook", TwoSigns)]))
    with pytest.warns(PluginWarning, match="'codebook' exists already"):
        quantizer = make_quantizer(tiny("codebook"))
    assert not isinstance(quantizer, TwoSigns)


def test_a_named_image_tokenizer_is_read_from_the_folder_that_its_plugin_gives(
    install_plugin: Install, tokenizer: ImageTokenizer, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    install_plugin(chameleon_vq_pretrained=hookimpl(lambda: [spec("acme", lambda: tmp_path)]))
    assert ImageTokenizer.from_pretrained("acme").fingerprint == tokenizer.fingerprint
    with pytest.raises(UnknownPluginError, match=r"no image tokenizer named 'acne'\. Installed: acme .*Did you mean"):
        ImageTokenizer.from_pretrained("acne")


def test_a_named_image_tokenizer_that_is_not_available_says_why(install_plugin: Install) -> None:
    named = [spec("acme", Path, unavailable=lambda: "its data was not downloaded")]
    install_plugin(chameleon_vq_pretrained=hookimpl(lambda: named))
    with pytest.raises(MissingFileError, match="'acme' isn't available here: its data was not downloaded"):
        ImageTokenizer.from_pretrained("acme")


def test_the_built_in_plugins_come_through_the_hooks_and_can_run() -> None:
    assert "codebook" in [each.spec.name for each in REGISTRY.registered(VECTOR_QUANTIZERS_HOOK)]
    assert REGISTRY.registered(PRETRAINED_HOOK) == ()
    assert REGISTRY.quarantined() == ()


def test_every_hook_is_registered_and_documented_with_its_exact_signature() -> None:
    hooks = {
        name: function
        for name, function in vars(hookspecs).items()
        if name.startswith("chameleon_vq_") and inspect.isfunction(function)
    }
    assert set(hooks) == set(REGISTRY.kinds)
    readme = README.read_text(encoding="utf-8")
    for name, function in hooks.items():
        assert f"{name}{inspect.signature(function)}".replace("'", "") in readme


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        (quantizers, "make_quantizer", make_quantizer),
        (contract, "make_quantizer", make_quantizer),
        (registry, "QUANTIZERS", VECTOR_QUANTIZERS_HOOK),
        (registry, "PRETRAINED", PRETRAINED_HOOK),
    ],
)
def test_an_old_name_warns_and_is_the_new_thing(module: Any, name: str, new: object) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{name} is chameleon_vq\.registry\..* now"):
        assert getattr(module, name) is new


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (EMAOptions, EMACodebook),
        (LFQOptions, LFQ),
        (ResidualOptions, ResidualCodebooks),
    ],
)
def test_the_options_of_a_quantizer_have_the_defaults_of_its_layer(options: type, layer: type) -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(options)}
    parameters = inspect.signature(layer).parameters.values()
    shared = {each.name: each.default for each in parameters if each.name in defaults}
    assert shared
    assert shared == {name: defaults[name] for name in shared}
