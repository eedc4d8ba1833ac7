"""Laws that hold for every picture, every code and every setting."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chameleon_vq import ChameleonImageProcessor
from chameleon_vq.pictures import pixels_to_images
from chameleon_vq.testing import code_grids, image_processors, make_image_tokenizer, pictures

TOKENIZER = make_image_tokenizer()
FEW = settings(max_examples=25)


@given(code_grids(TOKENIZER.num_codes))
def test_codes_to_latents_to_codes(codes_Bhw: Tensor) -> None:
    quantizer = TOKENIZER.model.quantize
    assert torch.equal(quantizer(quantizer.lookup(codes_Bhw)).codes, codes_Bhw)


@FEW
@given(code_grids(TOKENIZER.num_codes))
def test_every_grid_of_codes_becomes_a_picture_of_its_size(codes_Bhw: Tensor) -> None:
    batch, height, width = codes_Bhw.shape
    images = TOKENIZER.decode(codes_Bhw.flatten(1), latent_size=(height, width))
    assert [image.size for image in images] == [(width * 4, height * 4)] * batch


@FEW
@given(pictures())
def test_every_picture_becomes_codes_and_what_the_model_saw_the_same_ones(image: PIL.Image.Image) -> None:
    codes_BN = TOKENIZER.encode(image)
    assert codes_BN.shape == (1, TOKENIZER.tokens_per_image)
    assert torch.equal(TOKENIZER.encode(TOKENIZER.crop(image)), codes_BN)


@given(pictures(), image_processors())
def test_pixels_have_the_crop_s_size_whatever_the_picture(
    image: PIL.Image.Image, processor: ChameleonImageProcessor
) -> None:
    pixels_BCHW = processor.preprocess(image)["pixel_values"]
    assert pixels_BCHW.shape == (1, 3, processor.crop_size["height"], processor.crop_size["width"])
    scaled = processor.do_rescale or processor.do_normalize
    assert pixels_BCHW.dtype == (torch.float32 if scaled else torch.uint8)
    assert not scaled or torch.isfinite(pixels_BCHW).all()


@given(st.lists(pictures(), min_size=1, max_size=3), image_processors())
def test_a_picture_s_pixels_do_not_depend_on_its_company(
    images: list[PIL.Image.Image], processor: ChameleonImageProcessor
) -> None:
    together = processor.preprocess(images)["pixel_values"]
    alone = [processor.preprocess(image)["pixel_values"] for image in images]
    assert torch.equal(together, torch.cat(alone))


@given(pictures(modes=["RGB", "L"]), image_processors())
def test_a_picture_and_the_array_of_its_values_give_the_same_pixels(
    image: PIL.Image.Image, processor: ChameleonImageProcessor
) -> None:
    from_image = processor.preprocess(image)["pixel_values"]
    values = np.asarray(image)
    assert torch.equal(processor.preprocess(values)["pixel_values"], from_image)
    assert torch.equal(processor.preprocess(torch.from_numpy(values.copy()))["pixel_values"], from_image)


@given(image_processors(), pictures())
def test_settings_survive_json(processor: ChameleonImageProcessor, image: PIL.Image.Image) -> None:
    read = ChameleonImageProcessor.from_dict(json.loads(json.dumps(processor.to_dict())))
    assert read.to_dict() == processor.to_dict()
    assert torch.equal(read.preprocess(image)["pixel_values"], processor.preprocess(image)["pixel_values"])


@given(pictures(), image_processors(), image_processors())
def test_overriding_a_field_for_a_call_is_as_setting_it(
    image: PIL.Image.Image, processor: ChameleonImageProcessor, other: ChameleonImageProcessor
) -> None:
    overridden = processor.preprocess(
        image, size=other.size, resample=other.resample, do_rescale=other.do_rescale, image_mean=other.image_mean
    )
    changed = processor.replace(
        size=other.size, resample=other.resample, do_rescale=other.do_rescale, image_mean=other.image_mean
    )
    assert torch.equal(overridden["pixel_values"], changed.preprocess(image)["pixel_values"])


@given(pictures(modes=["RGB"], min_side=20, max_side=20))
def test_a_picture_of_the_crop_s_size_is_left_as_it_is(image: PIL.Image.Image) -> None:
    processor = ChameleonImageProcessor(do_rescale=False, do_normalize=False).at_resolution(20)
    assert np.array_equal(np.moveaxis(processor.preprocess(image, "np")["pixel_values"][0], 0, 2), np.asarray(image))


@given(pictures(modes=["RGB"], min_side=8, max_side=8))
def test_meta_s_pixels_become_the_picture_again(image: PIL.Image.Image) -> None:
    # Up to one level: x / 255 · 2 − 1 is rounded to float32, and drawing drops the fraction.
    [drawn] = pixels_to_images(ChameleonImageProcessor.meta(8).preprocess(image)["pixel_values"])
    difference = np.asarray(image, dtype=int) - np.asarray(drawn, dtype=int)
    assert difference.min() >= 0
    assert difference.max() <= 1


@given(pictures(modes=["L", "1", "LA"]))
def test_grey_pictures_have_equal_channels(image: PIL.Image.Image) -> None:
    pixels_CHW = ChameleonImageProcessor().at_resolution(16).preprocess(image)["pixel_values"][0]
    assert torch.equal(pixels_CHW[0], pixels_CHW[1])
    assert torch.equal(pixels_CHW[0], pixels_CHW[2])
