"""The same latents, codes and pixels as transformers, from the same weights and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from transformers import ChameleonConfig, ChameleonForConditionalGeneration
from transformers import ChameleonVQVAE as PeerVQVAE
from transformers import ChameleonVQVAEConfig as PeerConfig
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    ImageTokenizer,
    InterchangeWarning,
    VQEncoding,
)
from chameleon_vq.testing import make_image_tokenizer

LATENTS = 1e-5
"""float32, the absolute difference allowed: the two add up the same products in another order."""

SMALL = {
    "resolution": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 2, 2],
    "num_res_blocks": 2,
    "latent_channels": 16,
    "embed_dim": 8,
    "num_embeddings": 128,
}
CONFIGS = {
    "small": {},
    "attention at two levels": {"attn_resolutions": [32, 8]},
    "no attention": {"attn_type": "none", "attn_resolutions": [32]},
    "one level": {"channel_multiplier": [3]},
    "one channel": {"in_channels": 1},
}


def paint(height: int, width: int, *, seed: int = 0) -> PIL.Image.Image:
    """A picture with what photographs have: gradients, edges, fine grain."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    values = np.stack([200 * rows, 120 + 100 * np.sin(9 * columns + seed), 255 * rows * columns], axis=2)
    for _ in range(12):
        centre_row, centre_column, radius = random.random(3) * (1, 1, 0.2)
        inside = (rows - centre_row) ** 2 + (columns - centre_column) ** 2 < radius**2
        values[inside] = random.integers(0, 256, 3)
    return PIL.Image.fromarray(np.clip(values + random.normal(0, 8, values.shape), 0, 255).astype(np.uint8))


def both(fields: dict[str, Any]) -> tuple[Any, ChameleonVQVAE]:
    """The two models with the same random weights."""
    torch.manual_seed(0)
    peer = PeerVQVAE(PeerConfig(**fields))
    ours = ChameleonVQVAE(ChameleonVQVAEConfig.from_dict(fields), with_decoder=False).eval()
    ours.load_state_dict(peer.state_dict())
    return peer, ours


@torch.no_grad()
def assert_the_same_encoding(peer: Any, ours: ChameleonVQVAE, pixels_BCHW: Tensor) -> VQEncoding:
    encoded = peer.encode(pixels_BCHW)
    latents_BDhw = peer.quant_conv(encoded.last_hidden_state)
    encoding = ours.encode(pixels_BCHW)
    torch.testing.assert_close(encoding.latents_BDhw, latents_BDhw, rtol=0, atol=LATENTS)
    torch.testing.assert_close(encoding.loss, encoded.embedding_loss)
    assert_codes_agree_but_for_ties(ours, latents_BDhw, encoding.codes_Bhw, encoded.image_tokens)
    # The image tokenizer computes with channels last, which is faster and rounds differently.
    resolution = pixels_BCHW.shape[-1]
    tokenizer = ImageTokenizer(ours, ChameleonImageProcessor().at_resolution(resolution))
    codes_BN = tokenizer.encode_pixels(pixels_BCHW)
    assert_codes_agree_but_for_ties(ours, latents_BDhw, codes_BN, encoded.image_tokens)
    return encoding


def assert_codes_agree_but_for_ties(
    ours: ChameleonVQVAE, latents_BDhw: Tensor, codes: Tensor, expected: Tensor
) -> None:
    """Assert that codes differ only between entries whose distances are equal within the latents' tolerance."""
    differs = codes.flatten() != expected.flatten()
    latents_MD = latents_BDhw.double().movedim(1, -1).flatten(0, 2)[differs]
    entries_ZD = ours.state_dict()["quantize.embedding.weight"].double()
    mine_MD, theirs_MD = entries_ZD[codes.flatten()[differs]], entries_ZD[expected.flatten()[differs]]
    gap_M = (latents_MD - mine_MD).square().sum(1) - (latents_MD - theirs_MD).square().sum(1)
    # Moving each of the D values of a latent by the tolerance moves the gap by this much at most.
    allowed_M = 2 * LATENTS * (mine_MD - theirs_MD).abs().sum(1)
    assert (gap_M.abs() <= allowed_M).all()


# The model


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_small_models_give_the_same_latents_and_codes(fields: dict[str, Any]) -> None:
    peer, ours = both({**SMALL, **fields})
    channels = ours.config.in_channels
    pictures = [paint(32, 32, seed=seed) for seed in range(3)]
    processor = ChameleonImageProcessor().at_resolution(32)
    pixels_BCHW = processor.preprocess(pictures)["pixel_values"][:, :channels]
    encoding = assert_the_same_encoding(peer, ours, pixels_BCHW)
    assert len(encoding.codes_Bhw.unique()) > 10


def test_the_full_size_model_gives_the_same_latents_and_codes() -> None:
    peer, ours = both({})
    pixels_BCHW = ChameleonImageProcessor().preprocess(paint(600, 800))["pixel_values"]
    encoding = assert_the_same_encoding(peer, ours, pixels_BCHW)
    assert encoding.codes_Bhw.shape == (1, 32, 32)


def test_gradients_reach_the_same_weights_by_the_same_amounts() -> None:
    peer, ours = both(SMALL)
    pixels_BCHW = ChameleonImageProcessor().at_resolution(32).preprocess(paint(32, 32))["pixel_values"]
    # .encode is the forward pass in transformers; its loss is that of the quantizer.
    peer.encode(pixels_BCHW).embedding_loss.backward()
    ours.encode(pixels_BCHW).loss.backward()
    expected = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_the_full_size_state_dict_has_the_same_names_and_shapes() -> None:
    with torch.device("meta"):
        ours = ChameleonVQVAE(ChameleonVQVAEConfig(), with_decoder=False).state_dict()
        peer = PeerVQVAE(PeerConfig()).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: each.shape for name, each in peer.items()}


def test_configurations_go_both_ways() -> None:
    fields = {**SMALL, "attn_resolutions": [8], "dropout": 0.1, "double_latent": False}
    theirs = PeerConfig(**fields)
    ours = ChameleonVQVAEConfig.from_dict(theirs.to_dict())
    assert {name: ours.to_dict()[name] for name in fields} == fields
    again = PeerConfig(**ours.to_dict())
    assert {name: getattr(again, name) for name in fields} == fields


# Folders


def test_a_folder_saved_here_loads_there(tmp_path: Path) -> None:
    tokenizer = make_image_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    peer, loading = PeerVQVAE.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    assert all(name.startswith("decoder.") for name in loading["unexpected_keys"])
    pixels_BCHW = tokenizer.image_processor.preprocess(paint(40, 50))["pixel_values"]
    assert_the_same_encoding(peer, tokenizer.model, pixels_BCHW)
    reader = ChameleonImageProcessorPil.from_pretrained(tmp_path)
    assert torch.equal(reader(paint(40, 50), return_tensors="pt")["pixel_values"], pixels_BCHW)


def test_a_folder_saved_there_loads_here(tmp_path: Path) -> None:
    peer, ours = both(SMALL)
    peer.save_pretrained(tmp_path)
    ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    tokenizer = ImageTokenizer.from_pretrained(tmp_path)
    assert tokenizer.latent_size == (8, 8)
    state = ours.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in tokenizer.state_dict().items())


@pytest.mark.parametrize("shard_size", ["5GB", "200KB"])
def test_a_whole_model_saved_there_is_read_through_its_prefix(tmp_path: Path, shard_size: str) -> None:
    torch.manual_seed(0)
    vocabulary_map = {"<image>": 4, **{f"IMGIMG{'ABCDEFGHIJ'[code]}Z": 5 + code for code in range(8)}}
    config = ChameleonConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocabulary_map=vocabulary_map,
        vq_config={**SMALL, "num_embeddings": 8},
    )
    model = ChameleonForConditionalGeneration(config)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "200KB")
    tokenizer = ImageTokenizer.from_pretrained(tmp_path)
    pixels_BCHW = ChameleonImageProcessor().at_resolution(32).preprocess(paint(40, 50))["pixel_values"]
    assert_the_same_encoding(model.model.vqmodel, tokenizer.model, pixels_BCHW)


# Pictures to pixels

SIZES = [(512, 512), (640, 480), (333, 777), (777, 333), (1, 1), (100, 37), (513, 512), (511, 700), (1921, 1081)]
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"]
OVERRIDES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "smaller": {"size": {"shortest_edge": 100}, "crop_size": {"height": 90, "width": 111}},
    "crop larger than the picture": {"size": {"shortest_edge": 40}, "crop_size": {"height": 41, "width": 301}},
    "no resize": {"do_resize": False},
    "exact sides": {"size": {"height": 33, "width": 55}, "crop_size": {"height": 41, "width": 40}},
    "fitted": {"size": {"max_height": 50, "max_width": 70}},
    "bounded, not cropped": {"size": {"shortest_edge": 40, "longest_edge": 60}, "do_center_crop": False},
    "not rescaled": {"do_rescale": False},
    "not normalised": {"do_normalize": False},
    "bytes": {"do_rescale": False, "do_normalize": False},
    "other constants": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 255},
    "bicubic": {"resample": 3},
}


def assert_the_same_pixels(pictures: Any, **overrides: Any) -> None:
    expected = ChameleonImageProcessorPil()(pictures, return_tensors="np", **overrides)["pixel_values"]
    found = ChameleonImageProcessor()(pictures, return_tensors="np", **overrides)["pixel_values"]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_identical_for_every_mode_and_size(width: int, height: int, mode: str) -> None:
    random = np.random.default_rng(0)
    noise = PIL.Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8))
    assert_the_same_pixels(noise if mode == "RGBA" else noise.convert("LA" if mode == "LA" else "RGB").convert(mode))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_pixels_are_identical_for_every_argument(overrides: dict[str, Any], mode: str) -> None:
    for height, width in ((120, 95), (77, 301)):
        assert_the_same_pixels(paint(height, width).convert(mode), **overrides)


def test_pixels_of_several_pictures_and_of_arrays_are_identical() -> None:
    pictures = [paint(100, 60), paint(33, 44), paint(512, 512).convert("L")]
    assert_the_same_pixels(pictures)
    assert_the_same_pixels([[pictures[0]], [pictures[1], pictures[2]]])
    random = np.random.default_rng(0)
    for channels in (1, 3, 4):
        assert_the_same_pixels(random.integers(0, 256, (60, 70, channels), dtype=np.uint8))
        assert_the_same_pixels(random.integers(0, 256, (channels, 60, 70), dtype=np.uint8))


def test_photographs_read_from_files_are_turned_alike(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    paint(60, 100).save(tmp_path / "turned.jpg", exif=exif)
    assert_the_same_pixels(str(tmp_path / "turned.jpg"))
    with PIL.Image.open(tmp_path / "turned.jpg") as opened:
        assert_the_same_pixels(opened)


def test_settings_go_both_ways(tmp_path: Path) -> None:
    changed = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 48}, "rescale_factor": 0.01}
    ChameleonImageProcessorPil(**changed).save_pretrained(tmp_path / "theirs")
    ours = ChameleonImageProcessor.from_pretrained(tmp_path / "theirs")
    assert ours.to_dict() == json.loads((tmp_path / "theirs" / "preprocessor_config.json").read_text())
    ChameleonImageProcessor(**changed).save_pretrained(tmp_path / "ours")
    theirs = ChameleonImageProcessorPil.from_pretrained(tmp_path / "ours")
    picture = paint(100, 80)
    assert torch.equal(ours(picture)["pixel_values"], theirs(picture, return_tensors="pt")["pixel_values"])


def test_with_fewer_groups_transformers_computes_other_codes_and_saving_says_so(tmp_path: Path) -> None:
    """It loads the folder without an error, since its class has no field for the groups."""
    fields = {**SMALL, "channel_multiplier": (1, 2, 2), "norm_num_groups": 8}
    torch.manual_seed(0)
    ours = ImageTokenizer(ChameleonVQVAE(ChameleonVQVAEConfig(**fields)))
    with pytest.warns(InterchangeWarning, match="norm_num_groups is 8"):
        ours.save_pretrained(tmp_path)
    peer = PeerVQVAE.from_pretrained(tmp_path).eval()
    pixels_BCHW = ours.pixels(paint(32, 32))
    with torch.no_grad():
        theirs_N = peer.encode(pixels_BCHW).image_tokens.flatten()
    assert (theirs_N == ours.encode_pixels(pixels_BCHW)[0]).float().mean() < 0.5
