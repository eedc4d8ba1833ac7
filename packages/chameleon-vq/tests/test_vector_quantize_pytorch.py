"""The adapter for vector-quantize-pytorch: without the package, and with it if it is installed."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_vq import ChameleonVQVAEConfig, ConfigError, ImageTokenizer
from chameleon_vq.model import ChameleonVQVAE
from chameleon_vq.quantizers.vector_quantize_pytorch import CLASSES, REFUSED
from chameleon_vq.registry import REGISTRY, VECTOR_QUANTIZERS_HOOK, make_quantizer
from chameleon_vq.testing import VectorQuantizerConformance, make_image_tokenizer

NAME = "vector-quantize-pytorch"

installed = pytest.mark.skipif(
    importlib.util.find_spec("vector_quantize_pytorch") is None, reason="vector-quantize-pytorch isn't installed"
)
OWN_GRADIENT = {"test_the_gradient_goes_straight_through": "the package has gradients of its own"}


def config(options: dict[str, Any], **fields: Any) -> ChameleonVQVAEConfig:
    return ChameleonVQVAEConfig(
        **{"embed_dim": 3, "num_embeddings": 64, **fields}, quantizer=NAME, quantizer_options=options
    )


def test_without_the_package_it_is_listed_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [listed] = [each for each in REGISTRY.registered(VECTOR_QUANTIZERS_HOOK) if each.spec.name == NAME]
    reason = (
        "it needs the package vector-quantize-pytorch, which isn't installed: "
        "pip install './packages/chameleon-vq[vector-quantize-pytorch]'"
    )
    assert listed.why_unavailable() == reason
    with pytest.raises(ConfigError, match="can't be used with this configuration: it needs the package"):
        make_quantizer(config({"class": "SimVQ"}))


@installed
def test_every_quantizer_of_the_package_is_offered_or_refused_with_the_reason() -> None:
    package = importlib.import_module("vector_quantize_pytorch")
    classes = {name for name, each in vars(package).items() if isinstance(each, type)}
    assert classes - {"Sequential"} == {*CLASSES, *REFUSED}


@installed
class TestVectorQuantize(VectorQuantizerConformance):
    name = NAME
    config_fields = {"quantizer_options": {"class": "VectorQuantize", "rotation_trick": False}}


@installed
class TestVectorQuantizeOfTwoHeads(VectorQuantizerConformance):
    name = NAME
    config_fields = {
        "quantizer_options": {
            "class": "VectorQuantize",
            "heads": 2,
            "codebook_dim": 3,
            "separate_codebook_per_head": True,
        }
    }
    not_applicable = OWN_GRADIENT


@installed
class TestLFQ(VectorQuantizerConformance):
    name = NAME
    config_fields = {"embed_dim": 5, "quantizer_options": {"class": "LFQ"}}


@installed
class TestFSQ(VectorQuantizerConformance):
    name = NAME
    config_fields = {
        "embed_dim": 3,
        "num_embeddings": 64,
        "quantizer_options": {
            "class": "FSQ",
            "levels": [4, 4, 4],
            "preserve_symmetry": True,
            "bound_hard_clamp": True,
        },
    }
    not_applicable = OWN_GRADIENT


# Every class, and options that change the order of its codes, or what is learned. The suite would take too long for
# all: some classes are traced anew for each shape of their input.
SIX = {"embed_dim": 6, "num_embeddings": 64}
THREE_LEVELS = {"embed_dim": 3, "num_embeddings": 64}
CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "cosine": ({"class": "VectorQuantize", "use_cosine_sim": True}, 1, SIX),
    "learned": ({"class": "VectorQuantize", "learnable_codebook": True, "ema_update": False}, 1, SIX),
    "projected": ({"class": "VectorQuantize", "codebook_dim": 3}, 1, SIX),
    "SimVQ": ({"class": "SimVQ"}, 1, SIX),
    "FSP": ({"class": "FSP", "levels": [4, 4, 4]}, 1, THREE_LEVELS),
    "FSQ of two": ({"class": "FSQ", "levels": [4, 4, 4], "num_codebooks": 2}, 2, SIX),
    "FSQ kept": ({"class": "FSQ", "levels": [4, 4, 4], "keep_num_codebooks_dim": True}, 1, THREE_LEVELS),
    "LFQ of two": ({"class": "LFQ", "num_codebooks": 2}, 2, {"embed_dim": 12, "num_embeddings": 64}),
    "ResidualVQ": ({"class": "ResidualVQ", "num_quantizers": 3}, 3, SIX),
    "ResidualVQ of one": ({"class": "ResidualVQ", "num_quantizers": 1}, 1, SIX),
    "ResidualSimVQ": ({"class": "ResidualSimVQ", "num_quantizers": 2}, 2, SIX),
    "ResidualLFQ": ({"class": "ResidualLFQ", "num_quantizers": 2}, 2, SIX),
    "ResidualFSQ": ({"class": "ResidualFSQ", "levels": [4, 4, 4], "num_quantizers": 2}, 2, THREE_LEVELS),
    "GroupedResidualVQ": ({"class": "GroupedResidualVQ", "groups": 2, "num_quantizers": 2}, 4, SIX),
    "GroupedResidualFSQ": (
        {"class": "GroupedResidualFSQ", "levels": [4, 4, 4], "groups": 2, "num_quantizers": 2},
        4,
        SIX,
    ),
    "GroupedResidualLFQ": ({"class": "GroupedResidualLFQ", "groups": 2, "num_quantizers": 2}, 4, SIX),
}


@installed
def test_every_class_is_tried() -> None:
    assert {options["class"] for options, _, _ in CASES.values()} == set(CLASSES)


@installed
@pytest.mark.parametrize(("options", "codes_per_position", "fields"), CASES.values(), ids=CASES)
def test_a_class_encodes_decodes_learns_and_is_saved(
    options: dict[str, Any], codes_per_position: int, fields: dict[str, int], tmp_path: Path
) -> None:
    tokenizer = make_image_tokenizer(
        resolution=8,
        levels=2,
        num_codes=fields["num_embeddings"],
        embed_dim=fields["embed_dim"],
        quantizer=NAME,
        quantizer_options=options,
    )
    quantizer: Any = tokenizer.model.quantize
    assert (quantizer.num_codes, tokenizer.codes_per_position) == (64, codes_per_position)
    assert tokenizer.tokens_per_image == 16 * codes_per_position

    pixels_BCHW = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = tokenizer.model.train()(pixels_BCHW)
    assert drawn.encoding.usage.sum() == drawn.encoding.codes_Bhw.numel()
    (drawn.pixels_BCHW.square().mean() + drawn.encoding.loss).backward()
    gradient = tokenizer.model.encoder.conv_in.weight.grad
    assert gradient is not None
    assert gradient.any()

    tokenizer.model.eval()
    encoding = tokenizer.model.encode(pixels_BCHW)
    torch.testing.assert_close(quantizer.lookup(encoding.codes_Bhw), encoding.quantized_BDhw, rtol=1e-5, atol=1e-5)
    tokenizer.save_pretrained(tmp_path)
    again = ImageTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    codes_BN = again.encode_pixels(pixels_BCHW)
    assert torch.equal(codes_BN, encoding.codes_Bhw.flatten(1))
    assert codes_BN.unique().numel() > 1
    assert again.decode(codes_BN)[1].tobytes() == tokenizer.decode(codes_BN)[1].tobytes()


@installed
def test_a_position_s_codes_are_its_groups_and_in_each_its_levels() -> None:
    torch.manual_seed(0)
    options = {"class": "GroupedResidualVQ", "groups": 2, "num_quantizers": 3}
    quantizer: Any = make_quantizer(config(options, embed_dim=4, num_embeddings=16)).eval()  # type: ignore[attr-defined]
    latents_BDhw = torch.randn(2, 4, 3, 5)
    codes_BhwQ = quantizer(latents_BDhw).codes
    first, second = quantizer.module.rvqs
    latents_BMD = latents_BDhw.flatten(2).transpose(1, 2)
    for codes, group, part_BMd in (
        (codes_BhwQ[..., :3], first, latents_BMD[..., :2]),
        (codes_BhwQ[..., 3:], second, latents_BMD[..., 2:]),
    ):
        assert torch.equal(codes.flatten(1, 2), group(part_BMd)[1])


@installed
def test_the_package_s_fsq_as_it_comes_does_not_give_its_codes_back() -> None:
    """The documentation therefore says with which options it does."""
    quantizer: Any = make_quantizer(config({"class": "FSQ", "levels": [4, 4, 4]}))
    every_code = torch.arange(64).view(1, 8, 8)
    assert not torch.equal(quantizer(quantizer.lookup(every_code)).codes, every_code)


@installed
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the quantizer_option class must be one of the package's classes, VectorQuantize, .*; got None"),
        ({"class": "ResidualVq"}, r"got 'ResidualVq'\. Did you mean 'ResidualVQ'\?$"),
        ({"class": "EvoLFQ"}, "EvoLFQ can't be used as a vector quantizer here: it has an encoder"),
        ({"class": "SimVQ", "dim": 3}, "the option dim of SimVQ follows from embed_dim; leave it out"),
        ({"class": "SimVQ", "channel_first": True}, "the option channel_first of SimVQ follows from the latent grid"),
        (
            {"class": "ResidualVQ", "num_quantizers": 2, "quantize_dropout": True},
            "ResidualVQ can't have quantize_dropout=True here: it gives codes of -1; .*quantizer_dropout",
        ),
        ({"class": "FSQ", "levels": [4, 4, 4], "return_indices": False}, "it would return no codes"),
        ({"class": "ResidualVQ", "num_quantizers": 2, "shared_codebook": True}, "its levels are one tensor"),
        ({"class": "FSQ", "levels": [4, 4]}, r"the levels \[4, 4\] make 16 codes and num_embeddings is 64"),
        ({"class": "SimVQ", "decoy": 1}, r"vector_quantize_pytorch\.SimVQ refuses the arguments .*'decoy'"),
        ({"class": "FSQ", "levels": [2, 32]}, r"vector_quantize_pytorch\.FSQ refuses .*preserve_symmetry"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(config(options))


@installed
def test_in_a_bfloat16_model_the_package_computes_in_float32() -> None:
    quantizer: Any = make_quantizer(config({"class": "SimVQ"})).to(torch.bfloat16)  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in quantizer.parameters()} == {torch.float32}


@installed
@pytest.mark.parametrize("name", ["VectorQuantize", "SimVQ", "ResidualVQ", "LFQ"])
def test_sizes_that_the_weights_do_not_hold_take_no_memory(name: str, tmp_path: Path) -> None:
    options = {"class": name} | ({"num_quantizers": 2} if name == "ResidualVQ" else {})
    small = config(options, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1, resolution=8)
    ChameleonVQVAE(small).save_pretrained(tmp_path)
    assert ChameleonVQVAE.from_pretrained(tmp_path).quantize.num_codes == 64
    path = tmp_path / "config.json"
    before = path.read_text()
    for field, value in {"num_embeddings": 64, "embed_dim": small.embed_dim}.items():
        path.write_text(before.replace(f'"{field}": {value}', f'"{field}": 4294967296'))
        before_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ConfigError, match=r"asks for a tensor of [\d,]+ numbers, more than the weights beside it"):
            ChameleonVQVAE.from_pretrained(tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_peak < 200_000
