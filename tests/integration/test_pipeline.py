"""The packages together: documents, ids, the model, ids, documents."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from chameleon_core import (
    Chameleon,
    ChameleonCoreError,
    ChameleonForConditionalGeneration,
    ContextLengthError,
    Finished,
    ImageFinished,
    ImageProgress,
    TextDelta,
    save_document,
)
from chameleon_text import ChameleonProcessor, Document, DocumentError, Image, Text
from chameleon_text import UnknownPluginError as UnknownTextPluginError
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ImageError, ImageTokenizer, MissingDecoderError

INTERLEAVED = {"modality": "interleaved", "max_new_tokens": 120, "do_sample": True, "seed": 3}


def photograph(seed: int = 0) -> PIL.Image.Image:
    """A picture of blocks, so that its codes differ from place to place."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return PIL.Image.fromarray(blocks).resize((60, 40), PIL.Image.Resampling.NEAREST)


def codes_alone(document: Document) -> Document:
    return [Image(codes=segment.codes) if isinstance(segment, Image) else segment for segment in document]


def new_ids(chameleon: Chameleon, prompt: object, **options: object) -> list[int]:
    """What the model itself writes after a prompt."""
    ids = chameleon.processor.encode(prompt, template="completion")
    return chameleon.model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()  # type: ignore[arg-type,no-any-return]


# From prompt to document.


def test_a_document_is_what_the_processor_reads_in_the_ids_of_the_model(chameleon: Chameleon) -> None:
    prompt = ["A cat: ", photograph(), " and "]
    document = chameleon.generate(prompt, **INTERLEAVED)  # type: ignore[arg-type]
    assert any(isinstance(segment, Image) for segment in document)
    assert any(isinstance(segment, Text) for segment in document)
    assert codes_alone(document) == chameleon.processor.decode_document(new_ids(chameleon, prompt, **INTERLEAVED))


def test_pictures_come_back_as_the_image_tokenizer_draws_them(chameleon: Chameleon) -> None:
    (picture,) = chameleon.generate(["Draw ", photograph()], modality="image", do_sample=True, seed=5)
    assert isinstance(picture, Image)
    (drawn,) = chameleon.image_tokenizer.decode(torch.tensor([picture.codes]))
    assert picture.image == drawn
    assert chameleon.image_tokenizer.encode([picture.image])[0].tolist() == list(picture.codes or ())


def test_a_generated_document_is_a_prompt_again(chameleon: Chameleon) -> None:
    first = chameleon.generate("A ", **INTERLEAVED)  # type: ignore[arg-type]
    prompt = [Text("A "), *first, Text(" and ")]
    from_pixels = [Image(segment.image) if isinstance(segment, Image) else segment for segment in prompt]
    options = {"max_new_tokens": 8}
    assert chameleon.generate(prompt, **options) == chameleon.generate(from_pixels, **options)  # type: ignore[arg-type]


def test_a_guided_picture_is_the_models_own(chameleon: Chameleon) -> None:
    options = {"modality": "image", "do_sample": True, "seed": 1, "guidance_text": 3.0, "guidance_image": 1.2}
    document = chameleon.generate(["A ", photograph(), "B "], **options)  # type: ignore[arg-type]
    expected = new_ids(chameleon, ["A ", photograph(), "B "], **options)
    assert codes_alone(document) == chameleon.processor.decode_document(expected)


def test_placeholders_with_pixels_give_the_same_ids_as_real_ids(chameleon: Chameleon) -> None:
    pictures = [photograph(0), photograph(1), photograph(2)]
    text = ["Compare <image> with <image>.", "<image>What is this?"]
    assert isinstance(chameleon.image_tokenizer, ImageTokenizer)
    assert isinstance(chameleon.processor, ChameleonProcessor)
    placeholders = ChameleonProcessor(
        chameleon.processor.tokenizer,
        image_processor=chameleon.image_tokenizer.image_processor,
        image_seq_length=chameleon.image_tokenizer.tokens_per_image,
    )
    as_pixels = placeholders(text=text, images=pictures, padding=True, return_tensors="pt")
    as_ids = chameleon.processor(text=text, images=pictures, padding=True, return_tensors="pt")
    assert "pixel_values" in as_pixels
    assert "pixel_values" not in as_ids
    written = chameleon.model.generate(**as_pixels, max_new_tokens=8)
    assert torch.equal(written, chameleon.model.generate(**as_ids, max_new_tokens=8))


# Streams.


def test_a_stream_has_the_document(chameleon: Chameleon) -> None:
    *events, finished = chameleon.stream("A ", preview_every=4, **INTERLEAVED)  # type: ignore[arg-type]
    assert isinstance(finished, Finished)
    told = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert told == "".join(segment.text for segment in finished.document if isinstance(segment, Text))
    drawn = [(event.image, event.codes) for event in events if isinstance(event, ImageFinished)]
    assert drawn == [(segment.image, segment.codes) for segment in finished.document if isinstance(segment, Image)]
    assert drawn


def test_deltas_have_complete_characters(chameleon: Chameleon) -> None:
    # Random weights write many bytes that aren't characters; those that are must not be split.
    events = chameleon.stream("é", max_new_tokens=150, do_sample=True, seed=0)
    told = [event.text for event in events if isinstance(event, TextDelta)]
    assert all(text.encode().decode() == text for text in told)
    assert "".join(told) == chameleon.processor.tokenizer.decode(
        new_ids(chameleon, "é", max_new_tokens=150, do_sample=True, seed=0)
    )


def test_previews_show_the_rows_that_are_drawn(chameleon: Chameleon) -> None:
    events = list(chameleon.stream("A ", modality="image", do_sample=True, seed=0, preview_every=4))
    previews = [event.preview for event in events if isinstance(event, ImageProgress) and event.preview is not None]
    (whole,) = (event.image for event in events if isinstance(event, ImageFinished))
    assert len(previews) == 3
    for row, preview in enumerate(previews, start=1):
        above = (0, 0, preview.width, 2 * row)
        below = preview.crop((0, 2 * row, preview.width, preview.height))
        assert preview.crop(above) == whole.crop(above)
        assert len(set(below.get_flattened_data())) == 1


def test_a_cancelled_picture_keeps_its_codes(chameleon: Chameleon) -> None:
    count = 0

    def should_stop() -> bool:
        nonlocal count
        count += 1
        return count > 7

    options = {"modality": "image", "do_sample": True, "seed": 0}
    (cut,) = chameleon.generate("A ", should_stop=should_stop, **options)  # type: ignore[arg-type]
    (whole,) = chameleon.generate("A ", **options)  # type: ignore[arg-type]
    assert isinstance(cut, Image)
    assert isinstance(whole, Image)
    # Begin-image comes with the first code, in one step.
    assert cut.codes == (whole.codes or ())[:7]
    assert cut.image.size == whole.image.size


# Seeds and batches.


def test_the_same_seed_gives_the_same_document_and_another_seed_another(chameleon: Chameleon) -> None:
    first, again = (chameleon.generate("A ", **INTERLEAVED) for _ in range(2))  # type: ignore[arg-type]
    other = chameleon.generate("A ", **{**INTERLEAVED, "seed": 4})  # type: ignore[arg-type]
    assert first == again
    assert first != other


def test_a_rows_sampling_does_not_depend_on_the_rest_of_the_batch(chameleon: Chameleon) -> None:
    prompts = [["A cat: ", photograph()], "A longer prompt of text alone, ", "B "]
    together = chameleon.generate_batch(prompts, **INTERLEAVED)  # type: ignore[arg-type]
    # A row's generator follows from its index, so that the first row alone draws as the first of three.
    assert chameleon.generate(prompts[0], **INTERLEAVED) == together[0]  # type: ignore[arg-type]
    assert chameleon.generate_batch([*prompts[:2], "Something else "], **INTERLEAVED)[:2] == together[:2]  # type: ignore[arg-type]


# Folders.


def test_a_saved_pipeline_generates_the_same(chameleon: Chameleon, folder: Path) -> None:
    again = Chameleon.from_pretrained(folder)
    prompt = ["A cat: ", photograph()]
    assert again.generate(prompt, **INTERLEAVED) == chameleon.generate(prompt, **INTERLEAVED)  # type: ignore[arg-type]


def test_saving_a_loaded_pipeline_loses_nothing(folder: Path, tmp_path: Path) -> None:
    Chameleon.from_pretrained(folder).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    first, second = (ImageTokenizer.from_pretrained(each) for each in (folder, tmp_path))
    assert first.image_processor == second.image_processor
    assert first.fingerprint == second.fingerprint
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_the_folder_serves_each_package_alone(chameleon: Chameleon, folder: Path) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(folder)
    image_tokenizer = ImageTokenizer.from_pretrained(folder)
    processor = ChameleonProcessor.from_pretrained(folder, image_tokenizer=image_tokenizer)
    assert processor.image_seq_length == image_tokenizer.tokens_per_image == model.layout.tokens_per_image
    assert ChameleonImageProcessor.from_pretrained(folder) == image_tokenizer.image_processor
    prompt = ["A cat: ", photograph()]
    assert processor.encode(prompt) == chameleon.processor.encode(prompt, template="completion")


def test_a_loaded_processor_reads_pictures(folder: Path, chameleon: Chameleon) -> None:
    loaded = Chameleon.from_pretrained(folder)
    assert "not loaded yet" in repr(loaded)
    loaded.processor(text="What is this?")
    assert "not loaded yet" in repr(loaded)
    batch = loaded.processor(text="What is this?<image>", images=[photograph()], return_tensors="pt")
    expected = chameleon.processor(text="What is this?<image>", images=[photograph()], return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert "image tokenizer: ImageTokenizer(" in repr(loaded)
    assert loaded.generate("A ", **INTERLEAVED) == chameleon.generate("A ", **INTERLEAVED)  # type: ignore[arg-type]


def test_a_loaded_pipeline_moves(folder: Path) -> None:
    loaded = Chameleon.from_pretrained(folder)
    assert isinstance(loaded.image_tokenizer, ImageTokenizer)
    assert loaded.to("cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert {each.dtype for each in loaded.image_tokenizer.model.parameters()} == {torch.float32}
    assert loaded.caption(photograph(), max_new_tokens=2) is not None


# What doesn't fit.


def test_a_prompt_past_the_context_is_refused_with_the_numbers(chameleon: Chameleon) -> None:
    with pytest.raises(ContextLengthError, match=r"256") as raised:
        chameleon.generate([photograph()] * 15)
    assert str(15 * 18 + 1) in str(raised.value)


def test_what_a_sibling_raises_is_an_error_of_core_s_too(chameleon: Chameleon, folder: Path, tmp_path: Path) -> None:
    not_a_picture = tmp_path / "notes.png"
    not_a_picture.write_text("no picture")
    with pytest.raises(ImageError) as raised:
        chameleon.caption(not_a_picture)
    assert isinstance(raised.value, ChameleonCoreError)
    with pytest.raises(DocumentError) as raised_by_text:
        chameleon.stream([1.5])
    assert isinstance(raised_by_text.value, ChameleonCoreError)
    with pytest.raises(UnknownTextPluginError, match="Did you mean 'chat'") as unknown:
        chameleon.generate("Hello", template="caht")
    assert isinstance(unknown.value, ChameleonCoreError)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    with pytest.raises(ChameleonCoreError, match=r"tokenizer\.json"):
        Chameleon.from_pretrained(tmp_path / "copy")


def test_weights_without_a_decoder_are_an_error_before_a_picture_is_written(chameleon: Chameleon) -> None:
    assert isinstance(chameleon.image_tokenizer, ImageTokenizer)
    assert isinstance(chameleon.processor, ChameleonProcessor)
    encoder = ChameleonVQVAE(chameleon.image_tokenizer.model.config, with_decoder=False)
    image_tokenizer = ImageTokenizer(encoder, chameleon.image_tokenizer.image_processor)
    model = ChameleonForConditionalGeneration(chameleon.model.config)
    reading = Chameleon(model, ChameleonProcessor(chameleon.processor.tokenizer, image_tokenizer=image_tokenizer))
    with pytest.raises(MissingDecoderError):
        reading.stream("A ", modality="image")
    assert reading.generate([photograph()], max_new_tokens=2)


def test_saving_what_is_no_document_is_an_error_of_core(tmp_path: Path) -> None:
    with pytest.raises(ChameleonCoreError, match="segment"):
        save_document(["a", 3], tmp_path)  # type: ignore[list-item]


def test_a_saved_array_keeps_all_of_its_pixels(tmp_path: Path) -> None:
    pixels_HWC = np.arange(600 * 700 * 3, dtype=np.uint8).reshape(600, 700, 3)
    save_document([Image(pixels_HWC)], tmp_path)
    with PIL.Image.open(tmp_path / "picture-1.png") as saved:
        assert np.array_equal(np.asarray(saved), pixels_HWC)
    with pytest.raises(ChameleonCoreError, match="can't be written as PNG"):
        save_document([Image(np.zeros((2, 2, 7), np.uint8))], tmp_path)
