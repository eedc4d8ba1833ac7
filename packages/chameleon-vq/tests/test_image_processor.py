"""Pictures to pixels: cases computed by hand, and every kind of valid and invalid picture."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from chameleon_vq import ChameleonImageProcessor, ConfigError, ImageError, MissingFileError
from chameleon_vq.pictures import pixels_to_images
from chameleon_vq.testing import make_image_tokenizer

BYTES = ChameleonImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
"""Returns the bytes of a picture unchanged."""


def values(picture: Any, **overrides: Any) -> list[Any]:
    """The bytes of a picture's first row, as lists of channels."""
    pixels_CHW = BYTES.preprocess(picture, "np", **overrides)["pixel_values"][0]
    return list(np.moveaxis(pixels_CHW, 0, 2)[0].tolist())


# Scaling


def test_the_constants_of_transformers_make_white_0_989_and_black_minus_1() -> None:
    picture = PIL.Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8))
    pixels = ChameleonImageProcessor(do_resize=False, do_center_crop=False).preprocess(picture)["pixel_values"]
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, -0.0016, 0.989]), atol=1e-6, rtol=0)


def test_meta_s_preset_is_exactly_x_over_255_times_2_minus_1() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = ChameleonImageProcessor.meta(16).preprocess(picture)["pixel_values"]
    expected = (np.arange(256) / 255 * 2 - 1).astype(np.float32)
    assert np.array_equal(pixels[0, 0].flatten().numpy(), expected)


def test_steps_can_be_left_out() -> None:
    picture = np.full((2, 2, 3), 100, dtype=np.uint8)
    processor = BYTES.replace(rescale_factor=0.5, image_mean=(10.0, 20.0, 30.0), image_std=2.0)
    assert processor.preprocess(picture)["pixel_values"].dtype == torch.uint8
    assert processor.preprocess(picture, do_rescale=True)["pixel_values"].flatten().tolist() == [50.0] * 12
    normalized = processor.preprocess(picture, do_normalize=True)["pixel_values"]
    assert normalized[0, :, 0, 0].tolist() == [45.0, 40.0, 35.0]


def test_the_result_is_a_tensor_an_array_or_a_list() -> None:
    pictures = [np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((4, 5, 3), dtype=np.uint8)]
    processor = ChameleonImageProcessor().at_resolution(8)
    assert isinstance(processor(pictures)["pixel_values"], torch.Tensor)
    assert isinstance(processor(pictures, return_tensors="np")["pixel_values"], np.ndarray)
    assert [each.shape for each in BYTES(pictures, return_tensors=None)["pixel_values"]] == [(3, 2, 3), (3, 4, 5)]
    with pytest.raises(ImageError, match=r"pictures of the shapes \[\[3, 2, 3\], \[3, 4, 5\]\] don't fit into one"):
        BYTES(pictures)
    with pytest.raises(ConfigError, match="return_tensors is 'tf'; expected 'pt', 'np' or None"):
        processor(pictures, return_tensors="tf")  # type: ignore[arg-type]


# Size and crop


@pytest.mark.parametrize(
    ("rounding", "sides"),
    [("transformers", (512, 1194)), ("meta", (512, 1195))],  # 777 · 512 / 333 = 1194.67
)
def test_the_longer_side_is_truncated_or_rounded(rounding: Any, sides: tuple[int, int]) -> None:
    picture = np.zeros((333, 777, 3), dtype=np.uint8)
    processor = ChameleonImageProcessor(do_center_crop=False, rounding=rounding)
    assert processor.preprocess(picture)["pixel_values"].shape[2:] == sides
    assert processor.preprocess(picture.transpose(1, 0, 2))["pixel_values"].shape[2:] == sides[::-1]


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ({"shortest_edge": 10}, (10, 20)),
        (10, (10, 20)),
        ({"shortest_edge": 10, "longest_edge": 15}, (8, 15)),
        ({"height": 7, "width": 9}, (7, 9)),
        ({"max_height": 20, "max_width": 30}, (15, 30)),
    ],
)
def test_sizes_are_asked_for_in_four_ways(size: Any, sides: tuple[int, int]) -> None:
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    processor = ChameleonImageProcessor(size=size, do_center_crop=False)
    assert processor.preprocess(picture)["pixel_values"].shape[2:] == sides


def test_a_crop_takes_the_middle_and_pads_with_black() -> None:
    picture = np.array([[1, 2, 3, 4, 5]], dtype=np.uint8)
    crop = {"do_center_crop": True, "crop_size": {"height": 1, "width": 3}}
    assert [each[0] for each in values(picture, **crop)] == [2, 3, 4]
    crop = {"do_center_crop": True, "crop_size": {"height": 1, "width": 8}}
    assert [each[0] for each in values(picture, **crop)] == [0, 0, 1, 2, 3, 4, 5, 0]


# Kinds of pictures


def test_transparency_is_blended_onto_white() -> None:
    clear_and_half = np.array([[[9, 9, 9, 0], [0, 100, 200, 128]]], dtype=np.uint8)
    for picture in (PIL.Image.fromarray(clear_and_half), clear_and_half):
        for rounding in ("transformers", "meta"):
            clear, half = values(picture, rounding=rounding)
            assert clear == [255, 255, 255]
            assert np.allclose(half, [127, 177, 227], atol=1)


def test_meta_drops_the_fraction_of_a_blend() -> None:
    picture = PIL.Image.new("RGBA", (1, 1), (0, 100, 201, 100))
    exact = [255 - 100 / 255 * (255 - value) for value in (0, 100, 201)]
    assert values(picture, rounding="meta") == [[int(value) for value in exact]]


def test_a_palette_s_transparent_colour_becomes_white(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    picture = picture.convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "p.png", transparency=0)
    assert values(tmp_path / "p.png") == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_pictures_of_every_mode_become_rgb(mode: str) -> None:
    assert BYTES.preprocess(PIL.Image.new(mode, (3, 2)))["pixel_values"].shape == (1, 3, 2, 3)


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    deep = PIL.Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    for suffix in (".png", ".tif"):
        deep.save(tmp_path / f"deep{suffix}")
        assert [each[0] for each in values(tmp_path / f"deep{suffix}")] == [0, 1, 128, 255]
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n\x00\x00\xff\xff")
    assert [each[0] for each in values(tmp_path / "deep.pgm")] == [0, 255]


def test_a_widened_grey_picture_keeps_its_8_bits() -> None:
    grey = PIL.Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)).convert("I")
    assert [each[0] for each in values(grey)] == [0, 128, 255]


def test_values_without_a_range_are_refused() -> None:
    with pytest.raises(ImageError, match=r"values from 0\.5 to 0\.5 \(mode F\), expected 0…65535: which of them"):
        BYTES.preprocess(PIL.Image.new("F", (1, 1), 0.5))


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.gif", "a.webp"):
        red, _, blue = values(tmp_path / name)[0]
        assert red > 250
        assert blue < 5


def test_photographs_from_files_are_turned_upright_and_pil_images_when_asked(tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (4, 2))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    picture.save(tmp_path / "turned.jpg", exif=exif)

    def sides(source: Any, upright: bool | None) -> tuple[int, ...]:
        return tuple(BYTES.replace(do_exif_transpose=upright).preprocess(source)["pixel_values"].shape[2:])

    with PIL.Image.open(tmp_path / "turned.jpg") as opened:
        assert [sides(opened, upright) for upright in (None, False, True)] == [(2, 4), (2, 4), (4, 2)]
    assert [sides(tmp_path / "turned.jpg", upright) for upright in (None, False, True)] == [(4, 2), (2, 4), (4, 2)]


def test_arrays_come_in_three_layouts() -> None:
    generator = np.random.default_rng(0)
    array_HWC = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = BYTES.preprocess(array_HWC)["pixel_values"]
    assert torch.equal(BYTES.preprocess(array_HWC.transpose(2, 0, 1))["pixel_values"], expected)
    assert torch.equal(BYTES.preprocess(np.stack([array_HWC]))["pixel_values"], expected)
    grey_HW = array_HWC[:, :, 0]
    assert torch.equal(BYTES.preprocess(grey_HW)["pixel_values"], BYTES.preprocess(grey_HW[:, :, None])["pixel_values"])


def test_lists_may_be_nested_as_prompts_with_several_pictures_are() -> None:
    picture = np.zeros((2, 2, 3), dtype=np.uint8)
    assert BYTES.preprocess([[picture, picture], [picture]])["pixel_values"].shape[0] == 3


def test_without_conversion_channels_stay_as_they_are() -> None:
    processor = BYTES.replace(do_convert_rgb=False)
    assert processor.preprocess(PIL.Image.new("RGBA", (2, 2)))["pixel_values"].shape[1] == 4
    assert processor.preprocess(PIL.Image.new("L", (2, 2)))["pixel_values"].shape[1] == 1
    with pytest.raises(ImageError, match="picture of mode CMYK, expected L, P, RGB or RGBA; turn do_convert_rgb on"):
        processor.preprocess(PIL.Image.new("CMYK", (2, 2)))
    with pytest.raises(ImageError, match="image_mean has 3 values, expected one for each of the picture's 1 channels"):
        processor.preprocess(PIL.Image.new("L", (2, 2)), do_normalize=True)


# Bad pictures


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"there is no picture file .*nothing\.png"):
        BYTES.preprocess(tmp_path / "nothing.png")
    with pytest.raises(MissingFileError, match="only local files are read"):
        BYTES.preprocess("https://example.org/a.png")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png is empty \(0 bytes\)"):
        BYTES.preprocess(tmp_path / "empty.png")


def test_a_file_that_is_no_picture_is_named_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello, world")
    with pytest.raises(
        ImageError, match=r"text\.png is not a picture.*JPEG, PNG.*12 bytes of something else"
    ) as caught:
        BYTES.preprocess(tmp_path / "text.png")
    assert "hello" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tif"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    PIL.Image.fromarray(noise).save(whole, format=PIL.Image.registered_extensions()[suffix])
    (tmp_path / f"half{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(ImageError, match=rf"half\{suffix}"):
        BYTES.preprocess(tmp_path / f"half{suffix}")


def test_a_file_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageError, match=r"bomb\.png has too many pixels.*3600000000"):
        BYTES.preprocess(tmp_path / "bomb.png")


def test_a_picture_is_resized_to_no_longer_side_than_a_million_pixels() -> None:
    tall = np.zeros((2**18, 1, 3), dtype=np.uint8)
    resizing = {"do_resize": True, "do_center_crop": False}
    with pytest.raises(ImageError, match=r"resized to .* has a side of 2,097,152 pixels, more than 1,048,576"):
        BYTES.preprocess(tall, size={"shortest_edge": 8}, **resizing)
    assert BYTES.preprocess(tall, "np", size={"shortest_edge": 2}, **resizing)["pixel_values"].shape[2] == 2**19


def test_the_pixel_limit_counts_the_picture_and_what_it_would_be_resized_to() -> None:
    picture = PIL.Image.new("RGB", (100, 10))
    with pytest.raises(ImageError, match=r"has 100×10 = 1,000 pixels, more than the limit of 999\. If you trust"):
        BYTES.preprocess(picture, pixel_limit=999)
    strip = PIL.Image.new("RGB", (100_000, 1))
    with pytest.raises(ImageError, match=r"a picture of 100000×1, resized to .* has 51200000×512"):
        ChameleonImageProcessor().preprocess(strip)


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, expected a picture file; ImageTokenizer"):
        BYTES.preprocess(tmp_path)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (3, "expected a picture .* got int"),
        (b"\x89PNG", "expected a picture .* got bytes"),
        ([3], "expected a picture .* got int"),
        ([], "expected at least one picture, got an empty list"),
        (np.zeros((2, 2, 3)), r"expected an array of uint8 \(0…255\), got float64"),
        (np.zeros((2, 2, 5), dtype=np.uint8), r"got shape \[2, 2, 5\]"),
        (np.zeros((0, 2, 3), dtype=np.uint8), r"got shape \[0, 2, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        BYTES.preprocess(picture)


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": {"shortest": 3}}, r"size has the keys \['shortest'\]; expected one of \{shortest_edge\}"),
        ({"size": {"shortest_edge": 0}}, "size: Expected `int` >= 1"),
        ({"crop_size": {"height": 3}}, r"crop_size has the keys \['height'\]; expected height and width"),
        ({"resample": 9}, "resample: Expected `int` <= 5"),
        ({"image_std": (1.0, 0.0, 1.0)}, "expected no zero, since pixels are divided by it"),
        ({"image_std": (1.0, float("inf"), 1.0)}, r"image_std is \(1\.0, inf, 1\.0\); expected finite numbers"),
        ({"image_mean": float("nan")}, "image_mean is nan; expected finite numbers"),
        ({"rescale_factor": float("-inf")}, "rescale_factor is -inf; expected finite numbers"),
        ({"crop_size": {"height": 10**6, "width": 10**6}}, "crop_size is .* expected at most 16,777,216 pixels"),
        ({"rounding": "up"}, "rounding: Invalid enum value 'up'"),
    ],
)
def test_an_impossible_setting_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChameleonImageProcessor(**fields)
    with pytest.raises(ConfigError, match=message):
        ChameleonImageProcessor().preprocess(PIL.Image.new("RGB", (4, 4)), **fields)


def test_constants_whose_pixels_overflow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rescale_factor 1e\+300, .* make pixels that overflow float32"):
        ChameleonImageProcessor(rescale_factor=1e300).preprocess(PIL.Image.new("RGB", (4, 4)))


def test_settings_are_read_from_either_file(tmp_path: Path) -> None:
    processor = ChameleonImageProcessor.meta(64)
    processor.save_pretrained(tmp_path)
    assert ChameleonImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    nested = {"processor_class": "ChameleonProcessor", "image_processor": processor.to_dict()}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert ChameleonImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_settings_that_readers_prefer_are_replaced(tmp_path: Path) -> None:
    nested = {"processor_class": "ChameleonProcessor", "image_processor": ChameleonImageProcessor.meta(64).to_dict()}
    for save in (ChameleonImageProcessor.meta(32).save_pretrained, make_image_tokenizer().save_pretrained):
        (tmp_path / "processor_config.json").write_text(json.dumps(nested))
        save(tmp_path)
        assert ChameleonImageProcessor.from_pretrained(tmp_path).crop_size == {"height": 32, "width": 32}
        assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "ChameleonProcessor"


def test_a_folder_without_settings_says_which_files_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"no preprocessor_config\.json, and no processor_config\.json with an"):
        ChameleonImageProcessor.from_pretrained(tmp_path)


def test_a_default_processor_writes_the_arguments_of_transformers_and_no_others() -> None:
    assert set(ChameleonImageProcessor().to_dict()) == {
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_convert_rgb",
        "image_processor_type",
    }


# Pixels to pictures


def test_pixels_are_clamped_and_their_fraction_dropped() -> None:
    pixels_BCHW = torch.tensor([-7.0, -1.0, 0.0, 0.999, 1.0, 7.0]).view(1, 1, 1, 6)
    [image] = pixels_to_images(pixels_BCHW)
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 0, 127, 254, 255, 255]]


def test_pixels_that_hold_nan_can_not_be_drawn() -> None:
    pixels_BCHW = torch.zeros(1, 3, 2, 2)
    pixels_BCHW[0, 1, 1, 1] = torch.nan
    with pytest.raises(ImageError, match="the pixels to draw hold NaN"):
        pixels_to_images(pixels_BCHW)


def test_pixels_of_two_channels_can_not_be_drawn() -> None:
    with pytest.raises(ImageError, match="got pixels of 2 channels, expected 1, 3 or 4"):
        pixels_to_images(torch.zeros(1, 2, 3, 3))


def test_a_misspelt_argument_is_refused_with_the_closest_name() -> None:
    processor = ChameleonImageProcessor()
    with pytest.raises(ConfigError, match=r"has no field 'crop_siz'\. Did you mean 'crop_size'\?"):
        processor.preprocess([], crop_siz=8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"has no field 'rescale_facto'\. Did you mean 'rescale_factor'\?"):
        ChameleonImageProcessor(rescale_facto=1.0)  # type: ignore[call-arg]


def test_the_repr_has_what_differs_from_the_defaults() -> None:
    assert repr(ChameleonImageProcessor()) == "ChameleonImageProcessor()"
    assert repr(ChameleonImageProcessor(resample=3, do_resize=False)) == (
        "ChameleonImageProcessor(do_resize=False, resample=3)"
    )
