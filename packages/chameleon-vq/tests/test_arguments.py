"""Codes, pixels and pictures for training in forms that aren't expected: each works, or is an error of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, CodesError, ConfigError, ImageError, ImageTokenizer
from chameleon_vq.training import TensorPictures, TrainingOptions, VQTrainer

CODES = np.random.default_rng(0).integers(0, 64, (2, 64))


@pytest.mark.parametrize(
    "form",
    [
        lambda codes: codes[::-1][::-1],
        lambda codes: np.asfortranarray(codes),
        lambda codes: codes.astype(">i4"),
        lambda codes: codes.astype("<u8"),
        lambda codes: codes.tolist(),
        lambda codes: [torch.from_numpy(row) for row in codes],
        lambda codes: torch.from_numpy(codes).to(torch.uint16),
        lambda codes: torch.from_numpy(codes).T.contiguous().T,
    ],
)
def test_codes_of_any_byte_order_strides_and_integers_draw_the_same(
    tokenizer: ImageTokenizer, form: Callable[[Any], Any]
) -> None:
    drawn, expected = tokenizer.decode(form(CODES)), tokenizer.decode(CODES)
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in expected]


WRONG_CODES: dict[str, Any] = {
    "text": "codes",
    "texts of digits": [["1"] * 64],
    "floats": CODES.astype(float),
    "objects": CODES.astype(object),
    "bools": CODES > 3,
    "complex": torch.zeros(2, 64, dtype=torch.complex64),
    "beyond int64": np.full((1, 64), 2**64 - 1, dtype=np.uint64),
    "beyond int64, as a tensor": torch.from_numpy(np.full((1, 64), 2**64 - 1, dtype=np.uint64)),
    "beyond every integer": [[10**30] * 64],
    "negative": -CODES - 1,
    "too large": CODES + 64,
    "a meta tensor": torch.zeros(2, 64, dtype=torch.int64, device="meta"),
    "meta tensors": [torch.zeros(64, dtype=torch.int64, device="meta")],
    "a sparse tensor": torch.from_numpy(CODES).to_sparse(),
    "masked": np.ma.masked_less(CODES, 9),
    "a number": 3,
    "nothing": None,
    "a dictionary": {"codes": CODES},
    "dates": np.zeros((1, 64), dtype="datetime64[s]"),
    "an empty list": [],
}


@pytest.mark.parametrize("name", WRONG_CODES)
def test_what_are_no_codes_is_refused(tokenizer: ImageTokenizer, name: str) -> None:
    with pytest.raises(CodesError):
        tokenizer.decode(WRONG_CODES[name])


@pytest.mark.parametrize("size", ["88", (8,), (8, 8, 1), (0, 64), (-8, -8), (8.0, 8.0), (2**40, 2**40), 8])
def test_a_grid_that_is_none_is_refused(tokenizer: ImageTokenizer, size: Any) -> None:
    with pytest.raises(CodesError, match=r"latent_size is .*expected the height and width"):
        tokenizer.decode(CODES, latent_size=size)


def test_a_preview_of_a_huge_grid_is_refused(tokenizer: ImageTokenizer) -> None:
    with pytest.raises(ImageError, match="more than the limit"):
        tokenizer.preview([1], latent_size=(60_000, 60_000))


WRONG_PIXELS: dict[str, Any] = {
    "NaN": torch.full((1, 3, 32, 32), torch.nan),
    "one infinity": torch.cat([torch.zeros(1, 2, 32, 32), torch.full((1, 1, 32, 32), -torch.inf)], dim=1),
    "0…255": torch.full((1, 3, 32, 32), 255.0),
    "an array": np.zeros((1, 3, 32, 32), dtype=np.float32),
    "a list": [[0.0]],
    "a meta tensor": torch.zeros(1, 3, 32, 32, device="meta"),
    "a sparse tensor": torch.zeros(1, 3, 32, 32).to_sparse(),
    "complex": torch.zeros(1, 3, 32, 32, dtype=torch.complex64),
    "no rows": torch.zeros(1, 3, 0, 32),
}


@pytest.mark.parametrize("name", WRONG_PIXELS)
def test_what_are_no_pixels_is_refused(tokenizer: ImageTokenizer, name: str) -> None:
    with pytest.raises(ImageError):
        tokenizer.encode_pixels(WRONG_PIXELS[name])


@pytest.mark.parametrize("resolution", [0, -4, 30, "32", 32.0])
def test_a_resolution_that_is_none_is_refused(tokenizer: ImageTokenizer, resolution: Any) -> None:
    with pytest.raises(ImageError):
        tokenizer.encode(np.zeros((4, 4, 3), dtype=np.uint8), resolution=resolution)


@pytest.mark.parametrize("size", [0, 2.5, "4"])
def test_a_batch_size_that_is_none_is_refused(tokenizer: ImageTokenizer, size: Any) -> None:
    with pytest.raises(ConfigError, match="expected an integer ≥ 1"):
        tokenizer.encode(np.zeros((4, 4, 3), dtype=np.uint8), batch_size=size)


# Training


CONFIG = ChameleonVQVAEConfig(
    embed_dim=8, num_embeddings=16, latent_channels=8, resolution=16, base_channels=32, channel_multiplier=(1, 2),
    num_res_blocks=1, attn_type="none",
)  # fmt: skip
OPTIONS = TrainingOptions(steps=1, batch_size=1, warmup_steps=0, kmeans_pictures=0)


class Pictures:
    """A source that gives the same batch whatever is asked for."""

    def __init__(self, pixels_BCHW: Any) -> None:
        self.pixels_BCHW = pixels_BCHW

    def __len__(self) -> int:
        return 1

    def pixels(self, indices: Any, random: Any) -> Any:
        return self.pixels_BCHW


WRONG_PICTURES: dict[str, Any] = {
    "int16": torch.zeros(1, 3, 16, 16, dtype=torch.int16),
    "bool": torch.zeros(1, 3, 16, 16, dtype=torch.bool),
    "0…255": torch.linspace(0, 255, 768).view(1, 3, 16, 16),
    "0…255 in bfloat16": torch.linspace(0, 255, 768).view(1, 3, 16, 16).bfloat16(),
    "NaN": torch.full((1, 3, 16, 16), torch.nan),
    "17×16": torch.zeros(1, 3, 17, 16),
    "grey": torch.zeros(1, 1, 16, 16),
    "with alpha": torch.zeros(1, 4, 16, 16),
    "channels last": torch.zeros(1, 16, 16, 3),
    "no batch": torch.zeros(3, 16, 16),
    "empty": torch.zeros(1, 3, 0, 16),
}


@pytest.mark.parametrize("name", WRONG_PICTURES)
def test_unsuitable_pictures_are_refused_before_any_work(name: str) -> None:
    for make in (TensorPictures, Pictures):
        model = ChameleonVQVAE(CONFIG)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(ImageError):
            VQTrainer(model, OPTIONS).fit(make(WRONG_PICTURES[name]))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ImageError, match="the validation pictures"):
        VQTrainer(ChameleonVQVAE(CONFIG), OPTIONS).fit(
            TensorPictures(torch.zeros(1, 3, 16, 16)), validation_BCHW=WRONG_PICTURES[name]
        )


def test_a_picture_that_only_a_later_batch_has_is_found_when_it_comes() -> None:
    pixels_BCHW = torch.zeros(8, 3, 16, 16)
    pixels_BCHW[5] = 200
    with pytest.raises(ImageError, match="values from 0 to 200"):
        TensorPictures(pixels_BCHW)
