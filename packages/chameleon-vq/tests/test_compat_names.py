"""Settings, steps and attributes under the names of ``transformers``: done, refused, or named with what to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQVAE,
    ConfigError,
    ImageError,
    MissingFileError,
    WeightsError,
)
from chameleon_vq.compat import image_settings, model_names
from chameleon_vq.testing import make_image_tokenizer

SMALL = ChameleonImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
OTHER: dict[str, Any] = {
    "data_format": "channels_last",
    "default_to_square": True,
    "device": "cuda",
    "disable_grouping": "no",
    "do_pad": "yes",
    "image_seq_length": 5,
    "input_data_format": "channels_first",
    "pad_size": {"height": 9, "width": 9},
    "return_tensors": "pt",
}
"""A value of each setting that means something else than what happens anyway."""


@pytest.fixture(scope="module")
def model() -> ChameleonVQVAE:
    return make_image_tokenizer().model


@pytest.fixture
def picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 9, 11), np.uint8)


# Settings of the image processor.


@pytest.mark.parametrize("name", image_settings._ONLY)
def test_a_setting_with_the_value_that_holds_anyway_changes_nothing(name: str, tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    for value in image_settings._ONLY[name][0]:
        assert ChameleonImageProcessor(**{name: value}) == ChameleonImageProcessor()
        assert ChameleonImageProcessor.from_pretrained(tmp_path, **{name: value}).to_dict() == SMALL.to_dict()


@pytest.mark.parametrize("name", image_settings._ONLY)
def test_a_setting_with_another_value_says_what_to_do(name: str, tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    message = f"can't have {name}=.*: {image_settings._ONLY[name][1][:9]}"
    with pytest.raises(ConfigError, match=message):
        ChameleonImageProcessor(**{name: OTHER[name]})
    with pytest.raises(ConfigError, match=message):
        ChameleonImageProcessor.from_pretrained(tmp_path, **{name: OTHER[name]})
    with pytest.raises(ConfigError, match=name):
        setattr(ChameleonImageProcessor(), name, OTHER[name])


def test_these_settings_are_read_as_attributes() -> None:
    read = {name: getattr(SMALL, name) for name in image_settings._ONLY}
    assert {name: value for name, value in read.items() if value is not None} == {
        "data_format": "channels_first",
        "default_to_square": False,
    }
    assert SMALL.backend == "pil"


@pytest.mark.parametrize("name", image_settings._INSTEAD)
def test_a_name_that_an_image_processor_lacks_says_what_to_use(name: str) -> None:
    assert not hasattr(ChameleonImageProcessor, name)
    with pytest.raises(AttributeError, match=f"has no '{name}': "):
        getattr(SMALL, name)
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        SMALL.banana  # noqa: B018


def test_settings_of_a_folder_are_read_as_they_are(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    data, left = ChameleonImageProcessor.get_image_processor_dict(tmp_path, revision=None, banana=1)
    assert data == json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert left == {"banana": 1}
    with pytest.raises(MissingFileError):
        ChameleonImageProcessor.get_image_processor_dict(tmp_path / "nothing")


# Single steps.


@given(
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([{"shortest_edge": 8}, {"height": 7, "width": 9}]),
)
def test_the_steps_one_by_one_are_the_whole(height: int, width: int, channels: int, size: dict[str, int]) -> None:
    bytes_CHW = np.random.default_rng(height * width).integers(0, 256, (channels, height, width), np.uint8)
    one = SMALL.replace(size=size, do_convert_rgb=False)
    image = PIL.Image.fromarray(bytes_CHW[0] if channels == 1 else np.moveaxis(bytes_CHW, 0, 2))
    mean, std = 0.5, [0.25] * channels
    whole = one.preprocess(image, "np", image_mean=mean, image_std=std)["pixel_values"][0]
    for form in (np.asarray, torch.from_numpy):
        resized = one.resize(form(bytes_CHW), size, resample=one.resample)
        cropped = one.center_crop(resized, {"height": 8, "width": 8})
        scaled = one.normalize(one.rescale(cropped, one.rescale_factor), mean, std)
        assert type(scaled) is type(form(bytes_CHW))
        assert np.array_equal(np.asarray(scaled), whole)


def test_a_step_takes_bytes_or_numbers_as_transformers_does(picture: npt.NDArray[np.uint8]) -> None:
    assert SMALL.resize(picture, 4).shape == (3, 4, 4) or SMALL.resize(picture, 4).shape == (3, 4, 4 * 11 // 9)
    assert np.array_equal(SMALL.normalize(picture, 0, 1), picture.astype(np.float32))
    assert SMALL.center_crop(picture.astype(np.float64), 20).dtype == np.float64
    assert SMALL.rescale(picture, 0.5).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda picture: SMALL.resize(picture.astype(np.float32), 4), ImageError, "Resize before rescaling"),
        (lambda picture: SMALL.resize(picture[0], 4), ImageError, r"expected an array \[C, H, W\]"),
        (lambda picture: SMALL.resize(picture, {"sides": 3}), ConfigError, "size has the keys"),
        (lambda picture: SMALL.resize(picture, 4, resample=9), ConfigError, "resample"),
        (lambda picture: SMALL.center_crop(picture, 0), ConfigError, "crop_size"),
        (lambda picture: SMALL.center_crop("a.png", 4), ImageError, "preprocess takes pictures"),
        (lambda picture: SMALL.normalize(picture, [1, 2], 1), ConfigError, "mean has 2 values"),
        (lambda picture: SMALL.normalize(picture, 1, 0), ConfigError, "divided by it"),
    ],
    ids=["float", "two axes", "keys", "filter", "crop", "path", "mean", "std"],
)
def test_a_step_says_what_it_can_not_take(
    call: Any, error: type[Exception], message: str, picture: npt.NDArray[np.uint8]
) -> None:
    with pytest.raises(error, match=message):
        call(picture)


# Attributes of the network.


@pytest.mark.parametrize("name", model_names._INSTEAD)
def test_a_name_that_the_network_lacks_says_what_to_use(name: str, model: ChameleonVQVAE) -> None:
    assert not hasattr(ChameleonVQVAE, name)
    with pytest.raises(AttributeError, match=f"has no '{name}': "):
        getattr(model, name)
    with pytest.raises(AttributeError, match=f"{name} can't be set"):
        setattr(model, name, True)


def test_the_network_has_the_attributes_of_a_model(model: ChameleonVQVAE) -> None:
    assert (model.base_model, model.base_model_prefix, model.main_input_name) == (model, "model", "pixel_values")
    assert model.config_class is type(model.config)
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert (model.can_generate(), model.supports_gradient_checkpointing, model.is_gradient_checkpointing) == (
        False,
        False,
        False,
    )
    count = sum(each.numel() for each in model.parameters())
    codebook = model.quantize.embedding.weight.numel()
    assert model.num_parameters() == model.num_parameters(only_trainable=True) == count
    assert model.num_parameters(exclude_embeddings=True) == count - codebook
    buffers = sum(each.numel() * each.element_size() for each in model.buffers())
    assert model.get_memory_footprint() == 4 * count + buffers
    assert model.get_memory_footprint(return_buffers=False) == 4 * count


# Weights that loading would refuse.


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_would_not_load_are_not_saved_unless_asked(value: float, tmp_path: Path) -> None:
    tokenizer = make_image_tokenizer()
    with torch.no_grad():
        tokenizer.model.quant_conv.bias[0] = value
    for thing in (tokenizer, tokenizer.model):
        with pytest.raises(WeightsError, match=r"the model to save hold NaN or infinity") as caught:
            thing.save_pretrained(tmp_path)
        assert caught.value.not_finite == ("quant_conv.bias",)
        assert list(tmp_path.iterdir()) == []
    tokenizer.save_pretrained(tmp_path, check_finite=False)
    with pytest.raises(WeightsError, match="hold NaN or infinity"):
        ChameleonVQVAE.from_pretrained(tmp_path)
    assert not ChameleonVQVAE.from_pretrained(tmp_path, check_finite=False).quant_conv.bias[0].isfinite()
