"""The image tokenizer: its inputs, its results and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQError,
    ChameleonVQVAE,
    CodesError,
    ConfigError,
    ImageError,
    ImageTokenizer,
    ImageWarning,
    MissingFileError,
    compare_codes,
    reconstruct,
)
from chameleon_vq.reconstruction import psnr
from chameleon_vq.testing import make_image_tokenizer


@pytest.fixture
def folder(tmp_path: Path, picture: PIL.Image.Image) -> Path:
    """Three pictures in two folders, a broken picture, and a file that isn't a picture."""
    (tmp_path / "deeper").mkdir()
    picture.save(tmp_path / "a.png")
    picture.rotate(90).save(tmp_path / "deeper" / "c.PNG")
    picture.rotate(180).save(tmp_path / "d.jpg")
    (tmp_path / "b.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_the_numbers_of_a_tokenizer(tokenizer: ImageTokenizer) -> None:
    assert tokenizer.num_codes == 64
    assert tokenizer.latent_size == (8, 8)
    assert tokenizer.codes_per_position == 1
    assert tokenizer.tokens_per_image == 64


def test_a_tokenizer_moves_to_a_device_and_keeps_its_dtype() -> None:
    tokenizer = make_image_tokenizer()
    dtypes = [each.dtype for each in tokenizer.model.parameters()]
    assert tokenizer.to("meta") is tokenizer
    assert {each.device.type for each in tokenizer.model.parameters()} == {"meta"}
    assert [each.dtype for each in tokenizer.model.parameters()] == dtypes


def test_files_images_arrays_and_lists_give_the_same_codes(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "picture.png")
    codes_BN = tokenizer.encode(picture)
    assert codes_BN.shape == (1, 64)
    assert codes_BN.dtype == torch.int64
    array = np.asarray(picture)
    for same in (tmp_path / "picture.png", str(tmp_path / "picture.png"), array, [array], np.stack([array])):
        assert torch.equal(tokenizer.encode(same), codes_BN)
    assert torch.equal(tokenizer.encode([picture, array, tmp_path / "picture.png"]), codes_BN.expand(3, -1))


def test_no_pictures_give_no_codes_and_no_codes_no_pictures(tokenizer: ImageTokenizer) -> None:
    assert tokenizer.encode([]).shape == (0, 64)
    assert tokenizer.decode(torch.empty(0, 64, dtype=torch.int64)) == []


def test_codes_do_not_depend_on_the_batch_size(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    pictures = [picture.rotate(angle) for angle in range(0, 50, 10)]
    assert torch.equal(tokenizer.encode(pictures, batch_size=2), tokenizer.encode(pictures, batch_size=5))
    for use in (tokenizer.encode, lambda _, batch_size: tokenizer.decode([[0] * 64], batch_size=batch_size)):
        with pytest.raises(ConfigError, match="the batch size is 0, expected an integer ≥ 1"):
            use(pictures, batch_size=0)


def test_a_grey_model_reads_and_draws_grey_pictures() -> None:
    config = make_image_tokenizer().model.config.replace(in_channels=1)
    processor = ChameleonImageProcessor(do_convert_rgb=False, image_mean=1.0, image_std=1.0).at_resolution(32)
    grey = ImageTokenizer(ChameleonVQVAE(config), processor)
    [result] = reconstruct(grey, PIL.Image.new("L", (40, 50), 100))
    assert result.original.mode == result.reconstruction.mode == "L"
    with pytest.raises(ImageError, match=r"expected floating-point pixels \[B, 1, H, W\]"):
        ImageTokenizer(grey.model).encode(PIL.Image.new("L", (40, 50)))


def test_codes_can_be_trained_on(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    embedding = torch.nn.Embedding(tokenizer.num_codes, 4)
    embedding(tokenizer.encode(picture)).sum().backward()
    assert embedding.weight.grad is not None


def test_pixels_and_their_picture_give_the_same_codes(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    pixels_BCHW = tokenizer.image_processor.preprocess(picture)["pixel_values"]
    assert torch.equal(tokenizer.encode_pixels(pixels_BCHW), tokenizer.encode(picture))


def test_photographs_are_encoded_upright_from_files_and_from_images(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image, tmp_path: Path
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.rotate(180).save(tmp_path / "turned.png", exif=exif)
    expected = tokenizer.encode(picture)
    assert torch.equal(tokenizer.encode(tmp_path / "turned.png"), expected)
    with PIL.Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(tokenizer.encode(opened), expected)
        as_stored = ImageTokenizer(tokenizer.model, tokenizer.image_processor.replace(do_exif_transpose=False))
        assert torch.equal(as_stored.encode(opened), tokenizer.encode(picture.rotate(180)))


@pytest.mark.parametrize("size", [(16, 48), (48, 16), (32, 32), (4, 4)])
@pytest.mark.parametrize("of", [(40, 40), (10, 90), (7, 5)])
def test_a_picture_is_read_at_any_size_of_whole_positions_and_drawn_at_it(
    tokenizer: ImageTokenizer, size: tuple[int, int], of: tuple[int, int]
) -> None:
    picture = PIL.Image.effect_noise((of[1], of[0]), 60).convert("RGB")
    codes_BN = tokenizer.encode([picture, picture], size=size)
    grid = size[0] // 4, size[1] // 4
    assert codes_BN.shape == (2, grid[0] * grid[1])
    assert tokenizer.pixels(picture, size=size).shape == (1, 3, *size)
    (image, _) = tokenizer.decode(codes_BN, latent_size=grid)
    assert (image.height, image.width) == size
    preview = tokenizer.preview(codes_BN[0, :1], latent_size=grid)
    assert (preview.height, preview.width) == size


def test_a_picture_read_at_a_size_is_resized_to_cover_it_and_cropped(tokenizer: ImageTokenizer) -> None:
    left, right = PIL.Image.new("RGB", (40, 40), "black"), PIL.Image.new("RGB", (40, 40), "white")
    wide = PIL.Image.new("RGB", (80, 40))
    wide.paste(left, (0, 0))
    wide.paste(right, (40, 0))
    pixels_CHW = tokenizer.pixels(wide, size=(32, 32))[0]
    assert pixels_CHW[:, :, :14].max() < -0.9
    assert pixels_CHW[:, :, 18:].min() > 0.9
    assert torch.equal(tokenizer.encode(left, size=(32, 32)), tokenizer.encode(left))


def test_the_size_of_a_picture_is_that_of_what_people_see(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    turned = PIL.Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert tokenizer.picture_size(tmp_path / "turned.jpg") == (30, 20)
    assert tokenizer.picture_size(PIL.Image.new("RGB", (30, 20))) == (20, 30)
    assert tokenizer.encode(tmp_path / "turned.jpg", size=(16, 8)).shape == (1, 8)


def test_sizes_of_broken_positions_and_two_sizes_at_once_are_refused(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image
) -> None:
    with pytest.raises(ImageError, match="multiples of 4"):
        tokenizer.encode(picture, size=(30, 32))
    with pytest.raises(ImageError, match=r"got resolution 32 and size \(32, 32\); expected one of them"):
        tokenizer.encode(picture, resolution=32, size=(32, 32))


def test_other_resolutions_are_multiples_of_the_stride(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    codes_BN = tokenizer.encode(picture, resolution=48)
    assert codes_BN.shape == (1, 12 * 12)
    [image] = tokenizer.decode(codes_BN, latent_size=(12, 12))
    assert image.size == (48, 48)
    wide = tokenizer.encode_pixels(torch.zeros(1, 3, 8, 20))
    assert wide.shape == (1, 2 * 5)
    with pytest.raises(ImageError, match=r"30×30 pixels .* multiples of 4, such as 28 or 32"):
        tokenizer.encode(picture, resolution=30)
    with pytest.raises(ImageError, match="8×10 pixels"):
        tokenizer.encode_pixels(torch.zeros(1, 3, 8, 10))
    with pytest.raises(ImageError, match="multiples of 4"):
        ImageTokenizer(tokenizer.model, ChameleonImageProcessor().at_resolution(30))


def test_a_folder_s_pictures_come_in_order_with_their_codes(
    tokenizer: ImageTokenizer, folder: Path, picture: PIL.Image.Image
) -> None:
    failed: list[tuple[Path, ChameleonVQError]] = []
    with pytest.warns(ImageWarning, match=r"left out of .*: notes\.txt \(not the suffix of a picture that is read\)\."):
        encoded = list(
            tokenizer.encode_folder(folder, batch_size=2, on_error=lambda path, error: failed.append((path, error)))
        )
    assert [path.relative_to(folder).as_posix() for path, _ in encoded] == ["a.png", "d.jpg", "deeper/c.PNG"] or [
        path.relative_to(folder).as_posix() for path, _ in encoded
    ] == ["a.png", "deeper/c.PNG", "d.jpg"]
    assert torch.equal(encoded[0][1], tokenizer.encode(picture)[0])
    [(path, error)] = failed
    assert path == folder / "b.png"
    assert "b.png is not a picture" in str(error)


@pytest.mark.filterwarnings("ignore:left out of")
def test_without_a_handler_broken_files_are_named_after_the_others_were_encoded(
    tokenizer: ImageTokenizer, folder: Path
) -> None:
    encoded: list[str] = []
    with pytest.raises(ImageError, match=r"b\.png"):
        encoded.extend(path.name for path, _ in tokenizer.encode_folder(folder, batch_size=2))
    assert sorted(encoded) == ["a.png", "c.PNG", "d.jpg"]
    (folder / "e.png").write_bytes(b"also broken")
    with pytest.raises(ImageError, match=r"2 pictures can't be read; the others were encoded\.\n.*b\.png.*\n.*e\.png"):
        list(tokenizer.encode_folder(folder))
    with pytest.raises(MissingFileError, match="is not a folder"):
        list(tokenizer.encode_folder(folder / "nothing"))


def test_without_cropping_every_file_has_a_grid_of_its_own(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    uncropped = tokenizer.image_processor.replace(do_resize=False, do_center_crop=False)
    free = ImageTokenizer(tokenizer.model, uncropped)
    for width, height in ((8, 16), (32, 4)):
        PIL.Image.new("RGB", (width, height)).save(tmp_path / f"{width}.png")
    assert {path.stem: len(codes) for path, codes in free.encode_folder(tmp_path)} == {"8": 8, "32": 8}
    assert [each.reconstruction.size for each in reconstruct(free, sorted(tmp_path.iterdir()))] == [(32, 4), (8, 16)]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 63, dtype=torch.int64), r"got 63 codes per picture, expected 64 for a grid of 8×8"),
        (torch.zeros(64, dtype=torch.int64), r"expected integer codes \[B, N\], got torch.int64 \[64\]"),
        (torch.zeros(1, 64), r"expected integer codes \[B, N\], got torch.float32"),
        (torch.full((1, 64), 64), r"got codes 64…64, expected 0…63\. The ids of a vocabulary are not codes"),
        ([[-1] * 64], r"got codes -1…-1, expected 0…63"),
    ],
)
def test_codes_that_can_not_be_are_refused(tokenizer: ImageTokenizer, codes: Any, message: str) -> None:
    with pytest.raises(CodesError, match=message):
        tokenizer.decode(codes)


def test_codes_may_be_lists_arrays_or_small_integers(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    codes_BN = tokenizer.encode(picture)
    expected = tokenizer.decode(codes_BN)[0].tobytes()
    for same in (codes_BN.tolist(), codes_BN.numpy(), codes_BN.to(torch.uint16), codes_BN.to(torch.int32)):
        assert tokenizer.decode(same)[0].tobytes() == expected


def test_pixels_that_can_not_be_are_refused(tokenizer: ImageTokenizer) -> None:
    for pixels in (torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ImageError, match=r"expected floating-point pixels \[B, 3, H, W\]"):
            tokenizer.encode_pixels(pixels)


def test_a_preview_draws_the_complete_rows_and_leaves_the_rest_grey(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image
) -> None:
    codes_N = tokenizer.encode(picture)[0]
    grey = (127, 127, 127)
    for count, rows in ((0, 0), (7, 0), (8, 1), (43, 5)):
        preview = tokenizer.preview(codes_N[:count])
        assert preview.size == (32, 32)
        assert set(preview.crop((0, rows * 4, 32, 32)).get_flattened_data()) == {grey}
        assert rows == 0 or set(preview.crop((0, 0, 32, rows * 4)).get_flattened_data()) != {grey}
    assert tokenizer.preview(codes_N).tobytes() == tokenizer.decode(codes_N[None])[0].tobytes()
    with pytest.raises(CodesError, match=r"got 65 codes, expected at most 64 for a grid of 8×8"):
        tokenizer.preview(torch.zeros(65, dtype=torch.int64))


def test_the_fingerprint_is_that_of_the_codes_not_of_the_pictures_drawn(tokenizer: ImageTokenizer) -> None:
    fingerprint = tokenizer.fingerprint
    assert len(fingerprint) == 64
    with torch.no_grad():
        tokenizer.model.post_quant_conv.weight += 1
    assert tokenizer.fingerprint == fingerprint
    assert make_image_tokenizer(with_decoder=False).fingerprint == fingerprint
    assert make_image_tokenizer(seed=1).fingerprint != fingerprint
    tokenizer.model.to(torch.bfloat16)
    assert tokenizer.fingerprint == fingerprint
    with torch.no_grad():
        tokenizer.model.state_dict()["quantize.embedding.weight"][0, 0] += 1
    assert tokenizer.fingerprint != fingerprint


def test_a_number_in_a_quantizer_s_state_is_part_of_the_fingerprint(tokenizer: ImageTokenizer) -> None:
    quantizer: Any = tokenizer.model.quantize
    quantizer.register_buffer("temperature", torch.tensor(1.0))
    fingerprint = tokenizer.fingerprint
    quantizer.temperature.fill_(2.0)
    assert tokenizer.fingerprint != fingerprint


def test_making_a_tokenizer_switches_the_model_to_inference(tokenizer: ImageTokenizer) -> None:
    model = ChameleonVQVAE(tokenizer.model.config)
    assert model.training
    assert not ImageTokenizer(model).model.training


def test_bfloat16_changes_few_codes_and_those_are_near_ties(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    rounded = ImageTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    comparison = compare_codes(tokenizer, rounded, [picture.rotate(angle) for angle in range(0, 90, 10)])
    assert comparison.positions == 9 * 64
    # bfloat16 keeps 8 bits: latents move by some per cent of the distance between entries.
    assert 0 < comparison.differing < 0.1 * comparison.positions
    assert 0 < comparison.largest_margin < 0.05


def test_other_weights_are_told_from_rounding(tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> None:
    same = compare_codes(tokenizer, make_image_tokenizer(), picture)
    assert (same.differing, same.largest_margin) == (0, 0.0)
    assert compare_codes(tokenizer, make_image_tokenizer(seed=1), picture).largest_margin > 0.1
    with pytest.raises(CodesError, match="64 and 32 codes"):
        compare_codes(tokenizer, make_image_tokenizer(num_codes=32), picture)


def test_a_reconstruction_is_what_encoding_and_decoding_gives(
    tokenizer: ImageTokenizer, picture: PIL.Image.Image
) -> None:
    first, second = reconstruct(tokenizer, [picture, picture.rotate(180)])
    assert first.original.tobytes() == tokenizer.crop(picture)[0].tobytes()
    assert first.reconstruction.tobytes() == tokenizer.decode(tokenizer.encode(picture))[0].tobytes()
    assert first.psnr == psnr(first.original, first.reconstruction)
    assert second.psnr != first.psnr
    sheet = first.side_by_side()
    assert sheet.crop((0, 0, 32, 32)).tobytes() == first.original.tobytes()
    assert sheet.crop((40, 0, 72, 32)).tobytes() == first.reconstruction.tobytes()


def test_the_signal_to_noise_ratio_by_hand() -> None:
    black, grey = PIL.Image.new("RGB", (2, 2)), PIL.Image.new("RGB", (2, 2), (51, 51, 51))
    assert psnr(black, grey) == pytest.approx(13.979, abs=1e-3)  # 20 · log10(255 / 51)
    assert psnr(black, black) == float("inf")


def test_the_repr_is_a_line_about_what_it_encodes(tokenizer: ImageTokenizer) -> None:
    assert repr(tokenizer) == ("ImageTokenizer(32×32 pixels, 8×8 codes of 64, quantizer 'codebook', float32 on cpu)")
    residual = make_image_tokenizer(quantizer="residual", quantizer_options={"num_quantizers": 3}, with_decoder=False)
    assert repr(residual) == (
        "ImageTokenizer(32×32 pixels, 8×8×3 codes of 64, quantizer 'residual', no decoder, float32 on cpu)"
    )
