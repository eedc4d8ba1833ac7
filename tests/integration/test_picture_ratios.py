"""A model that is trained here, on drawings of three ratios of their sides, draws each shape at its own ratio."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from chameleon_core import Chameleon, ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_text import ChameleonProcessor, Image
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer
from chameleon_text.testing.image_tokenizer import PATCH

Pixels = npt.NDArray[np.uint8]

COLOURS = {"red": 9, "green": 21, "blue": 33, "grey": 50}
SIZES = {"ball": (8, 8), "snake": (4, 12), "tower": (12, 4)}
"""The shapes, and the height and width of their pictures in codes."""
WITHHELD = {("green", "ball"), ("blue", "snake"), ("red", "tower")}
"""What isn't drawn for the model."""
STEPS = 150


def drawing(colour: str, shape: str) -> Pixels:
    """A picture in which each code is one flat patch."""
    height, width = SIZES[shape]
    y, x = np.mgrid[:height, :width]
    if shape == "ball":
        inside = (y - 3.5) ** 2 + (x - 3.5) ** 2 < 12
    elif shape == "snake":
        inside = y == 1 + (x // 2) % 2
    else:
        inside = ((x == 1) | (x == 2)) & (y > 1)
    codes_hw = np.where(inside, COLOURS[colour], 2)
    pixels_hwC = np.stack([codes_hw, np.zeros_like(codes_hw), np.zeros_like(codes_hw)], axis=-1)
    return pixels_hwC.repeat(PATCH, axis=0).repeat(PATCH, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def chameleon() -> Chameleon:
    """The model after its training, which takes seconds."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(more_specials=tuple(reserved(8799 + number) for number in range(8)))
    config = ChameleonConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        vocabulary_map=dict(tokenizer.token_ids),
        vq_config={"resolution": 8 * PATCH, "channel_multiplier": [1, 1, 1]},
        picture_grammar="lumina",
    )
    model = ChameleonForConditionalGeneration(config)
    processor = ChameleonProcessor(
        tokenizer,
        image_tokenizer=FakeImageTokenizer(latent_size=(8, 8)),
        picture_format=model.layout.pictures,
    )
    shown = [each for each in itertools.product(COLOURS, SIZES) if each not in WITHHELD]
    rows = [processor.encode([f"a {colour} {shape}", drawing(colour, shape)]) for colour, shape in shown]
    batch: Any = processor.pad(rows, padding_side="right", return_tensors="pt")
    labels_BT = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = model(batch.input_ids, attention_mask=batch.attention_mask, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Chameleon(model.eval(), processor)


def test_each_shape_is_drawn_at_its_ratio(chameleon: Chameleon) -> None:
    for colour, shape in itertools.product(COLOURS, SIZES):
        image: Any = chameleon.draw(f"a {colour} {shape}", template="completion")
        expected = drawing(colour, shape)
        assert image.shape == expected.shape, (colour, shape)
        if (colour, shape) not in WITHHELD:
            assert np.array_equal(image, expected), (colour, shape)


def test_one_batch_draws_all_three_ratios_as_single_runs_do(chameleon: Chameleon) -> None:
    prompts = [f"a grey {shape}" for shape in SIZES]
    options: dict[str, Any] = {"modality": "image", "do_sample": True, "seed": 1}
    together = chameleon.generate_batch(prompts, **options)
    assert [picture.grid for (picture,) in together if isinstance(picture, Image)] == list(SIZES.values())
    # The first row of a batch has the noise of a row alone.
    (alone,) = chameleon.generate(prompts[0], **options)
    assert alone == together[0][0]


def test_a_shape_is_drawn_at_another_ratio_where_one_is_asked_for(chameleon: Chameleon) -> None:
    for height, width in SIZES.values():
        image: Any = chameleon.draw("a red snake", template="completion", image_size=(height * PATCH, width * PATCH))
        assert image.shape[:2] == (height * PATCH, width * PATCH)
