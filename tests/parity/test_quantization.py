"""Quantized models beside other libraries: folders of transformers' bitsandbytes, and adapters of peft.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from chameleon_core import (
    ChameleonForConditionalGeneration,
    ConfigError,
    Quantization,
    quantize_model,
    save_checkpoint,
)
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import TokenDocument, Trainer, TrainingOptions, add_lora, load_lora
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig

QUANTIZATIONS = {
    "int8": Quantization("int8"),
    "int4": Quantization("int4", {"group_size": 32}),
}


def make_quantized(name: str) -> ChameleonForConditionalGeneration:
    model = make_model(make_config(hidden_size=64, intermediate_size=96, attention_bias=True))
    quantize_model(model, QUANTIZATIONS[name])
    return model


def text() -> Tensor:
    """Ids [2, 12] of words."""
    return torch.randint(40, 60, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_adapters_train_on_quantized_layers_and_save_and_load(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = make_quantized(name)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before_BTV = model(text()).logits
    adapted = add_lora(model, rank=4)
    assert torch.equal(model(text()).logits, before_BTV)
    documents = [TokenDocument(str(row), ids.numpy()) for row, ids in enumerate(text())]
    options = TrainingOptions(steps=4, warmup_steps=1, batch_size=2, sequence_length=16, learning_rate=1e-2)
    Trainer(model, documents, options, tmp_path / "run").run(draw_curves=False)
    with torch.no_grad():
        trained_BTV = model.eval()(text()).logits
    assert not torch.equal(trained_BTV, before_BTV)
    for name_, tensor in model.state_dict().items():
        assert "lora_" in name_ or torch.equal(tensor, frozen[name_.replace(".base_layer", "")]), name_

    adapted.save_pretrained(tmp_path / "adapters")
    other = make_quantized(name)
    load_lora(other, tmp_path / "adapters")
    with torch.no_grad():
        assert torch.equal(other(text()).logits, trained_BTV)

    with pytest.raises(ConfigError, match=r"can't be merged into quantized weights. .*float_model, folder"):
        adapted.merge_and_unload()
    plain = make_model(make_config(hidden_size=64, intermediate_size=96, attention_bias=True))
    merged = load_lora(plain, tmp_path / "adapters").merge_and_unload()
    assert isinstance(merged, ChameleonForConditionalGeneration)
    assert merged.state_dict().keys() == plain.state_dict().keys()


# Four codes a picture, and the smallest that the peer's group norms allow.
VQ_CONFIG = {
    "resolution": 4,
    "channel_multiplier": [1, 1],
    "base_channels": 32,
    "num_res_blocks": 1,
    "embed_dim": 8,
    "latent_channels": 8,
    "num_embeddings": 16,
}

BITS = {
    "bnb-nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "bnb-nf4, doubly": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
    "bnb-int8": {"load_in_8bit": True},
}
OURS = {
    "bnb-nf4": Quantization("bnb-nf4", {"double_quant": False, "compute_dtype": "float32"}),
    "bnb-nf4, doubly": Quantization("bnb-nf4", {"compute_dtype": "float32"}),
    "bnb-int8": Quantization("bnb-int8"),
}


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """A folder that both read, with an image tokenizer in it.

    Widths are multiples of 64: with others the peer's kernel for CPUs with AVX-512 mistakes where blocks begin.
    """
    model = make_model(make_config(hidden_size=64, intermediate_size=128, vq_config=VQ_CONFIG))
    vqmodel = ChameleonVQVAE(ChameleonVQVAEConfig.from_dict(VQ_CONFIG))
    folder = tmp_path / "floats"
    save_checkpoint(model, folder, config=model.config, image_weights=vqmodel.state_dict())
    return folder


def load_peer(folder: Path, **options: Any) -> Any:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    peer_class: Any = transformers.ChameleonForConditionalGeneration
    peer = peer_class.from_pretrained(folder, device_map="cpu", dtype=torch.float32, **options).eval()
    for module in peer.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On CPUs with AVX512-BF16 it would repack its weight, round its scales to bfloat16 and refuse 48 outputs.
            module.support_avx512bf16_for_cpu = False
    return peer


@torch.no_grad()
def assert_same_logits(model: ChameleonForConditionalGeneration, peer: Any) -> None:
    """But for the picture ids, which the peer forbids inside its forward pass."""
    logits_BTV = model(text()).logits
    logits_BTV[..., model.layout.code_to_id_Z] = torch.finfo(logits_BTV.dtype).min
    torch.testing.assert_close(logits_BTV, peer(text()).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BITS)
def test_both_quantize_alike(name: str, floats: Path) -> None:
    peer = load_peer(floats, quantization_config=transformers.BitsAndBytesConfig(**BITS[name]))
    model = ChameleonForConditionalGeneration.from_pretrained(floats, quantization=OURS[name])
    assert_same_logits(model, peer)


@pytest.mark.parametrize("name", BITS)
def test_a_quantized_folder_saved_there_loads_here(name: str, floats: Path, tmp_path: Path) -> None:
    peer = load_peer(floats, quantization_config=transformers.BitsAndBytesConfig(**BITS[name]))
    peer.save_pretrained(tmp_path / "there")
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "there")
    assert_same_logits(model, peer)


@pytest.mark.parametrize("name", BITS)
def test_a_quantized_folder_saved_here_loads_there(name: str, floats: Path, tmp_path: Path) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(floats, quantization=OURS[name])
    model.save_pretrained(tmp_path / "here")
    assert json.loads((tmp_path / "here" / "config.json").read_text())["quantization_config"]["quant_method"] == (
        "bitsandbytes"
    )
    assert_same_logits(model, load_peer(tmp_path / "here"))
