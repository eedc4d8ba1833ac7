"""The embedded model is found by name and does what its model card says."""

from __future__ import annotations

import colorsys
import warnings

import numpy as np
import pytest
import torch

import chameleon_core
import chameleon_emoji
from chameleon_core import Chameleon, Quantization, quantize_model
from chameleon_text import ChameleonProcessor, Image, TextTokenizer
from chameleon_vq import ImageTokenizer

# Of the 41 drawings of withheld styles that are in the package, in decibels.
PSNR = 23.35


@pytest.fixture(scope="module")
def emoji() -> Chameleon:
    return Chameleon.from_pretrained("emoji")


def withheld() -> list[chameleon_emoji.Picture]:
    return [picture for picture in chameleon_emoji.pictures() if picture.split == "withheld-style"]


def test_a_picture_is_64_codes_of_4096_in_either_package(emoji: Chameleon) -> None:
    tokenizer = ImageTokenizer.from_pretrained("emoji")
    assert (tokenizer.num_codes, tokenizer.tokens_per_image, tokenizer.latent_size) == (4096, 64, (8, 8))
    assert tokenizer.fingerprint == emoji.image_tokenizer.fingerprint
    image = withheld()[0].image
    assert torch.equal(tokenizer.encode(image), emoji.image_tokenizer.encode(image))


def test_withheld_pictures_are_reconstructed_as_measured() -> None:
    tokenizer = ImageTokenizer.from_pretrained("emoji")
    images = [picture.image for picture in withheld()]
    again = tokenizer.decode(tokenizer.encode(images))
    errors = [np.square(np.float64(one) - np.float64(other)).mean() for one, other in zip(images, again, strict=True)]
    assert np.mean(10 * np.log10(255**2 / np.array(errors))) == pytest.approx(PSNR, abs=0.05)


def test_a_processor_and_a_tokenizer_are_loaded_by_name(emoji: Chameleon) -> None:
    assert chameleon_core.ChameleonProcessor is ChameleonProcessor
    image = withheld()[0].image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor = ChameleonProcessor.from_pretrained("emoji", image_tokenizer=True)
        pixels = ChameleonProcessor.from_pretrained("emoji")(text="<image>", images=image)
        tokenizer = TextTokenizer.from_pretrained("emoji")
    document = ["A heart: ", image]
    assert processor.encode(document) == emoji.processor.encode(document)
    assert pixels.pixel_values.shape == (1, 3, 64, 64)
    assert tokenizer.token_ids == emoji.processor.tokenizer.token_ids


def test_it_computes_in_float32(emoji: Chameleon) -> None:
    assert {parameter.dtype for parameter in emoji.model.parameters()} == {torch.float32}


def test_it_draws_in_the_requested_colour(emoji: Chameleon) -> None:
    pixels_HWC = np.asarray(emoji.draw("a twemoji drawing of a red heart", seed=0).convert("RGB")) / 255
    assert pixels_HWC.shape == (64, 64, 3)
    red, green, blue = np.median(pixels_HWC[24:40, 24:40].reshape(-1, 3), axis=0)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    assert min(hue, 1 - hue) < 0.08
    assert saturation > 0.5
    assert 0.2 < lightness < 0.8


def test_the_same_seed_draws_the_same_picture(emoji: Chameleon) -> None:
    pictures = [np.asarray(emoji.draw("a cat", seed=seed)) for seed in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_it_says_what_it_sees_in_more_than_one_form(emoji: Chameleon) -> None:
    (rocket,) = (each for each in chameleon_emoji.pictures() if (each.style, each.name) == ("twemoji", "rocket"))
    assert emoji.caption(rocket.image) == "a rocket"
    assert emoji.caption(rocket.image, question="name it in one word") == "rocket"
    assert emoji.caption(rocket.image, question="what is this, and in which style?") == "a twemoji drawing of a rocket"


@pytest.mark.parametrize(
    ("quantization", "goal"), [(Quantization("int8"), 0.98), (Quantization("int4", {"group_size": 64}), 0.9)]
)
def test_quantized_it_writes_the_same_ids(quantization: Quantization, goal: float) -> None:
    """Compare the likeliest ids of the names of withheld pictures, given the right ids before each."""
    emoji = Chameleon.from_pretrained("emoji")
    codes_BN = emoji.image_tokenizer.encode([picture.image for picture in withheld()])
    rows = [
        (
            emoji.processor.encode([Image(codes=codes_N), "what is this?"], template="chat"),
            emoji.processor.tokenizer.encode(f"a {picture.name}"),
        )
        for picture, codes_N in zip(withheld(), codes_BN, strict=True)
    ]
    plain = [likeliest(emoji, *row) for row in rows]
    quantize_model(emoji.model, quantization)
    quantized = [likeliest(emoji, *row) for row in rows]
    assert (torch.cat(plain) == torch.cat(quantized)).float().mean() >= goal


@torch.no_grad()
def likeliest(chameleon: Chameleon, question: list[int], answer: list[int]) -> torch.Tensor:
    """Return the likeliest id at each position of an answer and after it."""
    logits_TV = chameleon.model(torch.tensor([question + answer])).logits[0]
    return logits_TV[len(question) - 1 :].argmax(dim=-1)
