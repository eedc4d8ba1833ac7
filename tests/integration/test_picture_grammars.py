"""Pictures of several sizes through all packages: read, written, drawn, saved."""

from __future__ import annotations

import warnings
from pathlib import Path

import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ConfigError,
    GenerationError,
    ImageProgress,
    ImageStarted,
    save_document,
)
from chameleon_core.cli.app import app
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.testing import randomize
from chameleon_text import ChameleonProcessor, Image, Text, document_from_json
from chameleon_text.testing import make_tokenizer
from chameleon_vq.testing import make_image_tokenizer

RESERVED = tuple(reserved(8799 + number) for number in range(6))


@pytest.fixture(scope="module")
def chameleon() -> Chameleon:
    """A tiny model of random weights whose pictures have up to 8×8 codes of 4×4 pixels, in units of two codes."""
    tokenizer = make_tokenizer(more_specials=RESERVED)
    image_tokenizer = make_image_tokenizer()
    config = ChameleonConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        vocabulary_map=dict(tokenizer.token_ids),
        vq_config=image_tokenizer.config_dict(),
        picture_grammar="lumina",
    )
    model = randomize(ChameleonForConditionalGeneration(config)).eval()
    processor = ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer, picture_format=model.layout.pictures)
    model.attach_tokenizer(processor.tokenizer)
    return Chameleon(model, processor)


@pytest.mark.parametrize("size", [(8, 32), (32, 8), (16, 24), (32, 32)])
def test_a_picture_is_drawn_at_the_size_that_is_asked_for(chameleon: Chameleon, size: tuple[int, int]) -> None:
    image = chameleon.draw("a house", image_size=size, do_sample=True, seed=1)
    assert (image.height, image.width) == size


def test_the_size_is_streamed_once_the_model_has_chosen_it(chameleon: Chameleon) -> None:
    options = {"modality": "image", "do_sample": True, "temperature": 5.0}
    sizes = set()
    for seed in range(5):
        events = list(chameleon.stream("a house", preview_every=3, seed=seed, **options))  # type: ignore[arg-type]
        started, *rest, _, finished = events
        assert isinstance(started, ImageStarted)
        assert started.grid is not None
        height, width = started.grid
        assert started.num_codes == height * width
        progress = [event for event in rest if isinstance(event, ImageProgress)]
        assert [event.codes_done for event in progress] == list(range(1, height * width + 1))
        previews = [event.preview for event in progress if event.preview is not None]
        assert len(previews) == (height * width - 1) // 3
        assert all((each.height, each.width) == (4 * height, 4 * width) for each in previews)
        (picture,) = finished.document  # type: ignore[union-attr]
        assert isinstance(picture, Image)
        assert picture.grid == started.grid
        assert (picture.image.height, picture.image.width) == (4 * height, 4 * width)
        sizes.add(picture.grid)
    assert len(sizes) > 1


def test_a_document_of_several_sizes_is_a_prompt_again(chameleon: Chameleon, tmp_path: Path) -> None:
    wide, tall = PIL.Image.new("RGB", (90, 30), "red"), PIL.Image.new("RGB", (30, 90), "blue")
    prompt = ["A wall: ", wide, " and a tower: ", tall, " and "]
    document = chameleon.generate(prompt, modality="image", do_sample=True, seed=2)
    save_document(document, tmp_path)
    (loaded,) = document_from_json((tmp_path / "document.json").read_bytes())
    (picture,) = document
    assert isinstance(loaded, Image)
    assert isinstance(picture, Image)
    assert (loaded.codes, loaded.grid) == (picture.codes, picture.grid)
    again = [Image(codes=loaded.codes, grid=loaded.grid), Text(" is a house")]
    assert chameleon.generate(again, max_new_tokens=5)
    ids = chameleon.processor.encode([wide, tall])
    read = chameleon.processor.decode_document(ids)
    assert [segment.grid for segment in read if isinstance(segment, Image)] == [(4, 8), (8, 4)]


def test_rows_of_several_sizes_in_one_batch_are_what_each_draws_alone(chameleon: Chameleon) -> None:
    prompts = ["a house", ["a tree ", PIL.Image.new("RGB", (30, 90), "green")], "a road and a river"]
    options = {"modality": "image", "do_sample": True, "temperature": 5.0, "seed": 4}
    together = chameleon.generate_batch(prompts, **options)  # type: ignore[arg-type]
    grids = [segment.grid for (segment,) in together if isinstance(segment, Image)]
    assert len(set(grids)) > 1
    assert together[0] == chameleon.generate(prompts[0], **options)  # type: ignore[arg-type]


def test_a_model_of_several_sizes_is_saved_and_loaded_with_its_grammar(chameleon: Chameleon, tmp_path: Path) -> None:
    chameleon.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = Chameleon.from_pretrained(tmp_path)
    assert loaded.layout.pictures.grids == chameleon.layout.pictures.grids
    options = {"image_size": (8, 24), "do_sample": True, "seed": 3}
    assert loaded.draw("a house", **options) == chameleon.draw("a house", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pictures have \d+ sizes, and the processor writes pictures of one"):
        Chameleon(loaded.model, ChameleonProcessor(make_tokenizer(more_specials=RESERVED)))


def test_the_command_line_draws_and_reads_pictures_of_several_sizes(chameleon: Chameleon, tmp_path: Path) -> None:
    folder, output = str(tmp_path / "model"), tmp_path / "drawn"
    chameleon.save_pretrained(folder)
    run = CliRunner().invoke
    drawn = run(app, ["generate", folder, "a", "--modality", "image", "--image-size", "8x24", "--output", str(output)])
    assert drawn.exit_code == 0, drawn.output
    with PIL.Image.open(output / "picture-1.png") as image:
        assert image.size == (24, 8)
    encoded = run(app, ["tokenize", folder, "--document", str(output / "document.json")])
    assert encoded.exit_code == 0, encoded.output
    (tmp_path / "ids.json").write_text(encoded.stdout)
    decoded = run(app, ["detokenize", folder, str(tmp_path / "ids.json"), "--output", str(tmp_path / "again")])
    assert decoded.exit_code == 0, decoded.output
    assert (tmp_path / "again" / "picture-1.png").read_bytes() == (output / "picture-1.png").read_bytes()
    wrong = run(app, ["generate", folder, "a", "--image-size", "8 by 24"])
    assert "such as 512x768" in wrong.output


def test_pictures_of_a_prompt_need_a_grid_and_all_codes(chameleon: Chameleon) -> None:
    with pytest.raises(GenerationError, match="picture of prompt 0 has 4 codes in a grid of None"):
        chameleon.generate([Image(codes=(1, 2, 3, 4))])
    with pytest.raises(GenerationError, match="picture of prompt 0 has 3 codes; this model's pictures have 4"):
        chameleon.generate([Image(codes=(1, 2, 3), grid=(2, 2))])
    with pytest.raises(GenerationError, match=r"no pictures of 9×8 pixels"):
        chameleon.draw("a house", image_size=(9, 8))


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_an_interrupted_picture_is_kept_as_far_as_it_is_known(chameleon: Chameleon, count: int) -> None:
    calls = iter(range(100))
    document = chameleon.generate(
        "a house", modality="image", image_size=(8, 16), should_stop=lambda: next(calls) >= count
    )
    (picture,) = document
    assert isinstance(picture, Image)
    assert picture.grid == (2, 4)
    assert len(picture.codes or ()) == count
    assert (picture.image.height, picture.image.width) == (8, 16)


def test_pixel_values_beside_the_ids_are_for_pictures_of_one_size(chameleon: Chameleon) -> None:
    placeholder = chameleon.layout.placeholder_id
    pixels = chameleon.image_tokenizer.pixels([PIL.Image.new("RGB", (40, 40))])  # type: ignore[attr-defined]
    with pytest.raises(GenerationError, match="pixel_values stand for pictures of one size, and this model's have 16"):
        chameleon.model.generate(torch.tensor([[placeholder] * 64]), pixel_values=pixels, max_new_tokens=3)
