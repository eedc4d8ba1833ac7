"""What callers of ``transformers`` type at the image processor: it works or says what to do."""

from __future__ import annotations

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chameleon_vq import ChameleonImageProcessor, ConfigError, ImageError, MissingFileError

SMALL = ChameleonImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


@pytest.fixture
def picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize("form", ["data URL", "data URL, quoted", "base64", "base64 in lines", "file URL", "path"])
def test_a_picture_in_a_text_is_the_picture(form: str, picture: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = base64.b64encode(png(picture)).decode()
    (tmp_path / "a b.png").write_bytes(png(picture))
    texts = {
        "data URL": f"data:image/png;base64,{data}",
        "data URL, quoted": f"data:image/png;base64,{data.replace('+', '%2B')}",
        "base64": data,
        "base64 in lines": base64.encodebytes(png(picture)).decode(),
        "file URL": (tmp_path / "a b.png").as_uri(),
        "path": str(tmp_path / "a b.png"),
    }
    assert torch.equal(SMALL(texts[form]).pixel_values, SMALL(picture).pixel_values)


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://example.org/a.png", "s3://bucket/a.png"])
def test_a_picture_on_the_network_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(MissingFileError, match=f"{url} is on the network: only local files are read, so that"):
        SMALL([url])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/png;base64,####", "the data URL isn't base64"),
        ("data:image/png;base64,aGVsbG8=", "the data URL holds no picture of a format that is read here"),
        ("data:image/png", "has no comma"),
        ("aGVsbG8g" * 12, "neither the path of a file nor a picture in base64"),
    ],
)
def test_a_text_that_holds_no_picture_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        SMALL(text)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pictures_in_one_array_are_several(kind: Any, layout: str, picture: npt.NDArray[np.uint8]) -> None:
    pictures_BHWC = np.stack([picture, picture[::-1]])
    pictures = pictures_BHWC if layout == "channels_last" else np.ascontiguousarray(np.moveaxis(pictures_BHWC, 3, 1))
    expected = SMALL(list(pictures_BHWC)).pixel_values
    assert torch.equal(SMALL(kind(pictures)).pixel_values, expected)
    assert torch.equal(SMALL([kind(pictures)], input_data_format=layout).pixel_values, expected)


def test_an_ambiguous_array_is_read_as_the_caller_says() -> None:
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    first = ChameleonImageProcessor(do_resize=False, do_center_crop=False).preprocess
    as_last = first(array, input_data_format="channels_last").pixel_values
    assert torch.equal(first(array, input_data_format="channels_first").pixel_values, as_last.permute(0, 2, 3, 1))


@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_pixels_are_returned_in_the_layout_that_was_asked_for(tensors: Any, picture: npt.NDArray[np.uint8]) -> None:
    first = SMALL(picture, return_tensors=tensors)["pixel_values"]
    last = SMALL(picture, return_tensors=tensors, data_format="channels_last")["pixel_values"]
    assert np.array_equal(np.asarray(last[0]), np.moveaxis(np.asarray(first[0]), 0, 2))


def test_the_pixels_are_a_mapping_with_attributes(picture: npt.NDArray[np.uint8]) -> None:
    batch = SMALL(picture, device="cpu")
    assert batch.pixel_values is batch["pixel_values"]
    assert dict(**batch).keys() == {"pixel_values"}
    assert batch.to(torch.bfloat16) is batch
    assert batch.pixel_values.dtype == torch.bfloat16
    batch["extra"] = 1
    batch.more = 2
    assert batch.pop("extra") + batch.pop("more") == 3
    assert torch.equal(pickle.loads(pickle.dumps(batch)).pixel_values, batch.pixel_values)
    assert SMALL.model_input_names == list(batch)


@pytest.mark.parametrize(
    ("arguments", "same_as"),
    [
        ({"size": (6, 8), "do_center_crop": False}, {"size": {"height": 6, "width": 8}, "do_center_crop": False}),
        ({"crop_size": [4, 6]}, {"crop_size": {"height": 4, "width": 6}}),
        ({"size": 10, "default_to_square": True}, {"size": {"height": 10, "width": 10}}),
        ({"size": 10, "default_to_square": False}, {"size": {"shortest_edge": 10}}),
        ({"image_mean": [0.5, 0.5, 0.5]}, {"image_mean": (0.5, 0.5, 0.5)}),
        ({"do_pad": True, "pad_size": None, "disable_grouping": True, "device": None}, {}),
        ({"resample": PIL.Image.Resampling.BICUBIC}, {"resample": 3}),
    ],
    ids=str,
)
def test_arguments_of_a_call_have_the_forms_that_callers_use(
    arguments: dict[str, Any], same_as: dict[str, Any], picture: npt.NDArray[np.uint8]
) -> None:
    assert torch.equal(SMALL(picture, **arguments).pixel_values, SMALL(picture, **same_as).pixel_values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"do_pad": 3}, "True or False"),
        ({"pad_size": {"height": 9, "width": 9}}, "Pass crop_size"),
        ({"data_format": "channels"}, "expected 'channels_first' or 'channels_last'"),
        ({"input_data_format": 3}, "expected 'channels_first' or 'channels_last'"),
        ({"disable_grouping": "no"}, "expected True, False or None"),
        ({"device": "nowhere"}, "can't be moved"),
        ({"do_resiz": False}, "Did you mean 'do_resize'"),
    ],
    ids=str,
)
def test_an_argument_without_effect_is_refused(
    arguments: dict[str, Any], message: str, picture: npt.NDArray[np.uint8]
) -> None:
    with pytest.raises(ConfigError, match=message):
        SMALL(picture, **arguments)


def test_a_field_may_be_assigned_and_is_checked() -> None:
    processor = ChameleonImageProcessor()
    processor.size = 16
    processor.crop_size = (16, 16)
    processor.do_resize = False
    assert processor == ChameleonImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_resize=False
    )
    with pytest.raises(ConfigError, match="Did you mean 'do_center_crop'"):
        processor.do_centre_crop = False
    with pytest.raises(ConfigError, match="resample"):
        processor.resample = 9


@given(side=st.integers(1, 40), crop=st.integers(1, 40))
def test_an_assigned_field_is_the_argument_of_a_call(side: int, crop: int) -> None:
    picture = PIL.Image.effect_noise((13, 9), 90).convert("RGB")
    processor = ChameleonImageProcessor()
    processor.size, processor.crop_size = side, crop
    assert torch.equal(
        processor(picture).pixel_values, ChameleonImageProcessor()(picture, size=side, crop_size=crop).pixel_values
    )
