"""Reprs are a line, without addresses and values; old names work with a warning."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAEConfig, ConfigError
from chameleon_vq.model import ChameleonVQVAE
from chameleon_vq.training import BatchOrder, TensorPictures, TrainingLog, TrainingOptions, VQTrainer
from chameleon_vq.training.metrics import measure, to_levels

CONFIG = ChameleonVQVAEConfig(
    resolution=16, base_channels=32, channel_multiplier=(1, 2), num_res_blocks=1, num_embeddings=8, embed_dim=4
)


def test_training_objects_say_what_they_are(tmp_path: Path) -> None:
    pictures = TensorPictures(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), mirror=True)
    assert repr(pictures) == "TensorPictures([2, 3, 16, 16], uint8, mirror=True)"
    assert repr(BatchOrder(5, batch_size=2, seed=1)) == "BatchOrder(5, batch_size=2, seed=1)"
    assert repr(TrainingLog(None)) == "TrainingLog(None, 0 entries)"
    options = TrainingOptions(steps=1000)
    trainer = VQTrainer(ChameleonVQVAE(CONFIG), options, folder=tmp_path)
    assert repr(trainer) == f"VQTrainer(step 0, cpu, folder={str(tmp_path)!r}, {options!r})"


def test_encodings_show_shapes_and_no_values() -> None:
    drawn = ChameleonVQVAE(CONFIG)(torch.zeros(1, 3, 16, 16))
    encoding = (
        "VQEncoding(codes int64[1, 8, 8], latents float32[1, 4, 8, 8], quantized float32[1, 4, 8, 8], "
        "loss float32[], usage int64[8])"
    )
    assert repr(drawn.encoding) == encoding
    assert repr(drawn) == f"VQReconstruction(pixels float32[1, 3, 16, 16], {encoding})"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("quantizers.codebook", "POSITIONS_AT_ONCE", "quantizers.codebook.CHUNK"),
        ("quantizers.vector_quantize_pytorch", "why_refused", "quantizers.vector_quantize_pytorch.unsupported"),
        ("training.pictures", "random_for", "training.order.random_for"),
    ],
)
def test_an_old_name_is_the_new_one(module: str, old: str, new: str) -> None:
    owner, _, name = f"chameleon_vq.{new}".rpartition(".")
    with pytest.warns(DeprecationWarning, match=name):
        found = getattr(importlib.import_module(f"chameleon_vq.{module}"), old)
    assert found is getattr(importlib.import_module(owner), name)


def test_old_arguments_are_taken_with_a_warning() -> None:
    pixels = torch.zeros(1, 3, 16, 16)
    with pytest.warns(DeprecationWarning, match="pixels_NCHW is deprecated; use pixels_BCHW"):
        assert len(TensorPictures(pixels_NCHW=pixels)) == 1  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="pixels_NCHW"):
        assert to_levels(pixels_NCHW=pixels).dtype == torch.uint8  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="pixels_NCHW"):
        measure(ChameleonVQVAE(CONFIG), pixels_NCHW=pixels)  # type: ignore[call-arg]


def test_a_misspelt_key_of_a_size_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'shortest_edge'"):
        ChameleonImageProcessor(size={"shortest_edg": 64})
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        ChameleonImageProcessor(crop_size={"height": 64, "widht": 64})
