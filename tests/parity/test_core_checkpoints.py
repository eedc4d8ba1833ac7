"""A folder written here loads in transformers and gives the same logits, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.config import ChameleonConfig
from chameleon_core.layout import TokenLayout
from chameleon_core.model import ChameleonForConditionalGeneration
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

LETTERS = "ABCDEFGH"
SPECIALS = ["<s>", "<pad>", "</s>", "<image>", "<racm3:break>", "<eoss>", "<reserved08706>"]
# Ids that don't run with the codes.
NAMES = [*SPECIALS[:4], *(f"IMGIMG{letter}Z" for letter in reversed(LETTERS)), *SPECIALS[4:]]
VOCABULARY = {name: id_ for id_, name in enumerate(NAMES)}

VQ_CONFIG = {
    "resolution": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
    "embed_dim": 16,
    "latent_channels": 16,
    "num_embeddings": len(LETTERS),
}

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32,
    "vocabulary_map": VOCABULARY,
    "vq_config": VQ_CONFIG,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "multi-head": {},
    "grouped, biases and swin_norm": {
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "swin_norm": True,
    },
    "tied": {"tie_word_embeddings": True},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "num_key_value_heads": 1},
}

SIZES = {"one file": "5GB", "sharded": "30KB"}

# Float32 on both sides: the bound that the project promises.
TOLERANCE = 1e-5

variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
sizes = pytest.mark.parametrize("max_shard_size", SIZES.values(), ids=SIZES)


def randomize(module: nn.Module) -> None:
    """Random values everywhere, also where fresh models have zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)


def make_image_tokenizer() -> ImageTokenizer:
    model = ChameleonVQVAE(ChameleonVQVAEConfig.from_dict(VQ_CONFIG)).eval()
    randomize(model)
    return ImageTokenizer(model, ChameleonImageProcessor())


def make_model(changes: dict[str, Any]) -> ChameleonForConditionalGeneration:
    model = ChameleonForConditionalGeneration(ChameleonConfig(**{**CONFIG, **changes})).eval()
    randomize(model)
    return model


def make_peer(changes: dict[str, Any]) -> Any:
    peer: Any = transformers.ChameleonForConditionalGeneration(transformers.ChameleonConfig(**{**CONFIG, **changes}))
    peer.eval()
    randomize(peer)
    return peer


def load_peer(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model there, and what its loader says about the names of the tensors."""
    peer_class: Any = transformers.ChameleonForConditionalGeneration
    peer, info = peer_class.from_pretrained(folder, output_loading_info=True)
    return peer.eval(), info


@torch.no_grad()
def assert_same_logits(model: ChameleonForConditionalGeneration, peer: nn.Module) -> None:
    # Past the trained length, where the dynamic scaling begins.
    ids_BT = torch.randint(len(VOCABULARY), 64, (2, 40), generator=torch.Generator().manual_seed(1))
    logits_BTV: Tensor = model(ids_BT).logits
    # The peer forbids picture ids inside its forward pass.
    picture_ids = TokenLayout.from_config(model.config).code_to_id_Z
    logits_BTV[..., picture_ids] = torch.finfo(logits_BTV.dtype).min
    torch.testing.assert_close(logits_BTV, peer(ids_BT).logits, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def assert_same_picture_ids(tokenizer: ImageTokenizer, layout: TokenLayout, peer: Any) -> None:
    pixels_BCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    ids_BN = layout.code_to_id_Z[tokenizer.encode_pixels(pixels_BCHW)]
    assert layout.tokens_per_image == ids_BN.shape[1] == 64
    assert len(set(ids_BN.flatten().tolist())) > 1
    assert torch.equal(ids_BN, peer.model.get_image_tokens(pixels_BCHW).long())


@variants
@sizes
def test_a_folder_saved_here_loads_there(changes: dict[str, Any], max_shard_size: str, tmp_path: Path) -> None:
    model = make_model(changes)
    model.image_tokenizer = make_image_tokenizer()
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)

    peer, info = load_peer(tmp_path)
    decoder = {name for name in read_checkpoint(tmp_path).tensors if name.startswith("model.vqmodel.decoder.")}
    assert decoder
    # The peer has no decoder, and leaves that of the file alone; there is nothing else that it doesn't know.
    assert set(info["unexpected_keys"]) == decoder
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert_same_logits(model, peer)
    assert_same_picture_ids(model.image_tokenizer, model.layout, peer)


@variants
@sizes
def test_a_folder_saved_there_loads_here(changes: dict[str, Any], max_shard_size: str, tmp_path: Path) -> None:
    peer = make_peer(changes)
    peer.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert_same_logits(model, peer)
    assert_same_picture_ids(ImageTokenizer.from_pretrained(tmp_path), model.layout, peer)


@sizes
def test_a_folder_goes_there_and_back_without_a_change(max_shard_size: str, tmp_path: Path) -> None:
    peer = make_peer(VARIANTS["grouped, biases and swin_norm"])
    peer.save_pretrained(tmp_path / "there", max_shard_size=max_shard_size)
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "there")
    model.save_pretrained(tmp_path / "here", max_shard_size=max_shard_size)

    again, info = load_peer(tmp_path / "here")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = peer.state_dict()
    assert set(again.state_dict()) == set(expected)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    # The peer's own loader notes the folder and the type in the config; let it do so on both sides.
    before = load_peer(tmp_path / "there")[0].config.to_dict()
    assert {**again.config.to_dict(), "_name_or_path": ""} == {**before, "_name_or_path": ""}
    assert again.generation_config.eos_token_id == peer.generation_config.eos_token_id


def test_the_type_recorded_on_either_side_is_the_other_sides(tmp_path: Path) -> None:
    make_peer({}).bfloat16().save_pretrained(tmp_path / "there")
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "there", dtype="auto")
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "here")
    assert load_peer(tmp_path / "here")[0].dtype == torch.bfloat16
