"""Every vector quantizer in the whole toolkit: pictures, codes, ids, a transformer that writes them, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ConfigError,
    ImageFinished,
    ImageProgress,
)
from chameleon_text import ChameleonProcessor, Image, Text
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ImageTokenizer
from chameleon_vq.testing import make_image_tokenizer

QUANTIZERS: dict[str, dict[str, Any]] = {
    "codebook": {"num_codes": 32},
    "ema": {"num_codes": 32},
    "fsq": {"num_codes": 30, "embed_dim": 3, "quantizer_options": {"levels": [5, 3, 2]}},
    "lfq": {"num_codes": 32, "embed_dim": 5},
    "residual": {"num_codes": 32, "quantizer_options": {"num_quantizers": 3}},
}


def make_pipeline(quantizer: str) -> Chameleon:
    """A random transformer of one layer, pictures of 8×8 pixels, a grid of 4×4."""
    image_tokenizer = make_image_tokenizer(resolution=8, levels=2, quantizer=quantizer, **QUANTIZERS[quantizer])
    tokenizer = make_tokenizer(image_tokenizer.num_codes, seed=0)  # its ids are in an order of their own
    processor = ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer)
    config = ChameleonConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=processor.vocabulary.bos_id,
        eos_token_id=processor.vocabulary.eos_id,
        pad_token_id=processor.vocabulary.pad_id,
        vocabulary_map=tokenizer.token_ids,
        vq_config=image_tokenizer.config_dict(),
    )
    torch.manual_seed(0)
    return Chameleon(ChameleonForConditionalGeneration(config).eval(), processor)


@pytest.fixture(scope="module", params=list(QUANTIZERS))
def chameleon(request: pytest.FixtureRequest) -> Chameleon:
    return make_pipeline(request.param)


@pytest.fixture(scope="module")
def residual() -> Chameleon:
    return make_pipeline("residual")


def test_model_processor_and_image_tokenizer_agree_on_the_size_of_a_picture(chameleon: Chameleon) -> None:
    image_tokenizer, processor = chameleon.image_tokenizer, chameleon.processor
    assert isinstance(image_tokenizer, ImageTokenizer)
    assert isinstance(processor, ChameleonProcessor)
    expected = 4 * 4 * image_tokenizer.codes_per_position
    assert chameleon.layout.tokens_per_image == image_tokenizer.tokens_per_image == expected
    assert processor.image_seq_length == expected
    assert chameleon.layout.num_codes == processor.vocabulary.num_codes == image_tokenizer.num_codes


def test_a_picture_survives_the_vocabulary_and_the_processor(chameleon: Chameleon) -> None:
    picture = PIL.Image.linear_gradient("L").resize((11, 8)).convert("RGB")
    document = [Text("A cat: "), Image(picture), Text(" and ")]
    ids = chameleon.processor.encode(document, template="completion")
    read = chameleon.processor.decode_document(ids)
    (codes,) = (segment.codes for segment in read if isinstance(segment, Image))
    assert list(codes or ()) == chameleon.image_tokenizer.encode([picture])[0].tolist()
    assert [type(segment) for segment in read] == [Text, Image, Text]
    # And again from the codes alone.
    assert chameleon.processor.encode(read, template="completion") == ids


def test_a_generated_picture_is_what_the_image_tokenizer_draws_of_its_codes(chameleon: Chameleon) -> None:
    (picture,) = chameleon.generate("A ", modality="image", do_sample=True, seed=0)
    assert isinstance(picture, Image)
    codes = picture.codes or ()
    assert len(codes) == chameleon.layout.tokens_per_image
    assert all(0 <= code < chameleon.layout.num_codes for code in codes)
    assert len(set(codes)) > 1
    (drawn,) = chameleon.image_tokenizer.decode(torch.tensor([codes]))
    assert picture.image == drawn


def test_placeholders_with_pixels_become_the_same_ids(chameleon: Chameleon) -> None:
    assert isinstance(chameleon.image_tokenizer, ImageTokenizer)
    assert isinstance(chameleon.processor, ChameleonProcessor)
    picture = PIL.Image.radial_gradient("L").resize((8, 9)).convert("RGB")
    placeholders = ChameleonProcessor(
        chameleon.processor.tokenizer,
        image_processor=chameleon.image_tokenizer.image_processor,
        image_seq_length=chameleon.image_tokenizer.tokens_per_image,
    )
    as_pixels, as_ids = (
        processor(text=["What is <image>?"], images=[picture], return_tensors="pt")
        for processor in (placeholders, chameleon.processor)
    )
    assert "pixel_values" in as_pixels
    written = [chameleon.model.generate(**batch, max_new_tokens=3) for batch in (as_pixels, as_ids)]
    assert torch.equal(*written)


def test_interleaved_documents_are_prompts_again(chameleon: Chameleon) -> None:
    (picture,) = chameleon.generate("A ", modality="image", do_sample=True, seed=1)
    prompt = [Text("A "), picture, Text(" and ")]
    assert chameleon.generate(prompt, max_new_tokens=4) == chameleon.generate(prompt, max_new_tokens=4)


def test_a_saved_pipeline_generates_the_same(chameleon: Chameleon, tmp_path: Path) -> None:
    chameleon.save_pretrained(tmp_path)
    again = Chameleon.from_pretrained(tmp_path)
    options = {"modality": "image", "do_sample": True, "seed": 2}
    assert again.generate("A ", **options) == chameleon.generate("A ", **options)  # type: ignore[arg-type]
    alone = ImageTokenizer.from_pretrained(tmp_path)
    assert alone.tokens_per_image == again.layout.tokens_per_image


def test_previews_of_several_codes_per_position_are_whole_rows(residual: Chameleon) -> None:
    """A row of the grid is 4 positions of 3 codes."""
    events = list(residual.stream("A ", modality="image", do_sample=True, seed=0, preview_every=12))
    previews = [event.preview for event in events if isinstance(event, ImageProgress) and event.preview is not None]
    (whole,) = (event for event in events if isinstance(event, ImageFinished))
    assert len(whole.codes) == 48
    assert len(previews) == 3
    for row, preview in enumerate(previews, start=1):
        below = preview.crop((0, 2 * row, 8, 8))
        assert len(set(below.get_flattened_data())) == 1
        assert len(set(preview.crop((0, 0, 8, 2 * row)).get_flattened_data())) > 1


def test_a_picture_that_was_cut_inside_of_a_position_keeps_its_codes(residual: Chameleon) -> None:
    (whole,) = residual.generate("A ", modality="image", do_sample=True, seed=0)
    assert isinstance(whole, Image)
    codes = (whole.codes or ())[:20]  # six positions, and two of three codes
    ids = residual.processor.encode([Image(codes=codes)], template="completion")
    assert residual.processor.decode_document(ids) == [Image(codes=codes)]
    preview = residual.image_tokenizer.preview(torch.tensor(codes))
    assert preview == residual.image_tokenizer.preview(torch.tensor(codes[:12]))


def test_a_model_that_was_told_of_one_code_per_position_is_refused(residual: Chameleon) -> None:
    vq_config = {key: value for key, value in residual.model.config.vq_config.items() if key != "codes_per_position"}
    model = ChameleonForConditionalGeneration(residual.model.config.replace(vq_config=vq_config))
    with pytest.raises(ConfigError, match=r"32 codes and takes 48 for a picture; the model has 32 .* and takes 16"):
        Chameleon(model, residual.processor)
