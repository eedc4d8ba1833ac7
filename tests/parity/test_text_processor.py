"""The same ids, masks and pixels as the processor of transformers, from the same folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer
from transformers import ChameleonProcessor as PeerProcessor
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_text import ChameleonProcessor, ConfigError, Text, TokenizerWarning
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonImageProcessor

SEQUENCE_LENGTH = 5
PROMPTS = {
    "text alone": (["What is this?"], 0),
    "one picture": (["What do you see in this picture?<image>"], 1),
    "several pictures": (["What do these have in common?<image><image>"], 2),
    "a picture amid text": (["The red\n\n<image> apple, 12 €"], 1),
    "a batch": (["What do these have in common?<image><image>", "<image>What is shown in this?", "No picture 😀."], 3),
}


@pytest.fixture(scope="module")
def pictures() -> list[PIL.Image.Image]:
    random = np.random.default_rng(0)
    shapes = [(40, 61, 3), (33, 20, 3), (24, 24, 3)]
    return [PIL.Image.fromarray(random.integers(0, 256, shape, np.uint8)) for shape in shapes]


@pytest.fixture(scope="module", params=[None, 3], ids=["published order", "permuted"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written here, and read by both."""
    path = tmp_path_factory.mktemp("ours")
    small = ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = make_tokenizer(seed=request.param)
    ChameleonProcessor(tokenizer, image_processor=small, image_seq_length=SEQUENCE_LENGTH).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> ChameleonProcessor:
    return ChameleonProcessor.from_pretrained(folder, image_processor=ChameleonImageProcessor.from_pretrained(folder))


@pytest.fixture(scope="module")
def peer(folder: Path) -> Any:
    return peer_of(folder)


def peer_of(folder: Path) -> Any:
    # Not through the class's own from_pretrained, whose image processor needs torchvision.
    config = json.loads((folder / "processor_config.json").read_text())
    return PeerProcessor(
        ChameleonImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        image_seq_length=config["image_seq_length"],
        image_token=config["image_token"],
    )


@pytest.mark.parametrize("completion", [False, True], ids=["chat", "completion"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", PROMPTS)
def test_ids_masks_and_pixels_are_those_of_the_peer(
    case: str, side: Any, completion: bool, ours: ChameleonProcessor, peer: Any, pictures: list[PIL.Image.Image]
) -> None:
    prompts, count = PROMPTS[case]
    options = {"padding": True, "padding_side": side, "return_tensors": "pt", "return_for_text_completion": completion}
    images = pictures[:count] or None
    expected = peer(images=images, text=prompts, **options)
    batch = ours(images=images, text=prompts, **options)
    assert set(batch) == set(expected)
    for name in expected:
        assert batch[name].dtype == expected[name].dtype
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize("where", [("cpu", torch.bfloat16), (torch.bfloat16,), ("cpu",)], ids=str)
def test_a_batch_moves_and_casts_its_pixels_as_that_of_the_peer(
    where: tuple[Any, ...], ours: ChameleonProcessor, peer: Any, pictures: list[PIL.Image.Image]
) -> None:
    options = {"text": ["<image>"], "images": pictures[:1], "return_tensors": "pt"}
    expected, batch = peer(**options).to(*where), ours(**options).to(*where)
    assert {name: batch[name].dtype for name in batch} == {name: expected[name].dtype for name in expected}
    assert torch.equal(batch.pixel_values, expected.pixel_values)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_picture_may_be_a_tensor(channels_first: bool, ours: ChameleonProcessor, peer: Any) -> None:
    picture = torch.randint(0, 256, (40, 61, 3), dtype=torch.uint8)
    picture = picture.permute(2, 0, 1).contiguous() if channels_first else picture
    for images in (picture, picture[None]):
        batch, expected = (each(images=images, text="<image>", return_tensors="pt") for each in (ours, peer))
        assert torch.equal(batch.pixel_values, expected.pixel_values)


def test_a_batch_that_is_not_of_tensors_stays_where_it_is(ours: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="input_ids is a list; only a batch of tensors can move"):
        ours(text="a", return_tensors=None).to("cpu")


def test_rows_of_a_tensor_decode_as_lists_do(ours: ChameleonProcessor) -> None:
    batch = ours(text=["a", "the"], padding=True, return_tensors="pt")
    assert ours.decode_document(batch.input_ids[1]) == [Text("the")]
    assert ours.batch_decode(batch.input_ids, skip_special_tokens=True) == ["a", "the"]


@pytest.mark.parametrize("skip", [False, True])
def test_ids_decode_to_the_text_of_the_peer(skip: bool, ours: ChameleonProcessor, peer: Any) -> None:
    prompts = ["The red apple é😀\n  12", "<unk>x"]
    ids = ours(text=prompts, padding=True, return_tensors="pt").input_ids
    expected = peer.batch_decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    assert ours.batch_decode(ids, skip_special_tokens=skip) == expected


def test_specials_have_the_names_and_ids_of_the_peer(ours: ChameleonProcessor, peer: Any) -> None:
    vocabulary, tokenizer = ours.vocabulary, peer.tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (vocabulary.bos_id, vocabulary.eos_id)
    assert (tokenizer.pad_token_id, tokenizer.sep_token_id) == (vocabulary.pad_id, vocabulary.separator_id)
    assert peer.image_token_ids == [
        *(vocabulary.image_placeholder_id, vocabulary.begin_image_id, vocabulary.end_image_id)
    ]
    assert peer.image_seq_length == ours.image_seq_length
    assert tokenizer.get_vocab() == ours.tokenizer.token_ids
    assert tokenizer.padding_side == ours.padding_side


def test_a_folder_that_the_peer_saved_is_read_the_same(
    ours: ChameleonProcessor, peer: Any, pictures: list[PIL.Image.Image], tmp_path: Path
) -> None:
    peer.save_pretrained(tmp_path)
    again = ChameleonProcessor.from_pretrained(
        tmp_path, image_processor=ChameleonImageProcessor.from_pretrained(tmp_path)
    )
    prompts, count = PROMPTS["a batch"]
    options = {"text": prompts, "images": pictures[:count], "padding": True, "return_tensors": "np"}
    expected = ours(**options)
    assert again.image_seq_length == SEQUENCE_LENGTH
    assert {name: value.tolist() for name, value in again(**options).items()} == {
        name: value.tolist() for name, value in expected.items()
    }


def test_a_folder_goes_there_and_back_again(peer: Any, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path / "theirs")
    ChameleonProcessor.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    prompts, _ = PROMPTS["text alone"]
    assert again(prompts)["input_ids"] == peer.tokenizer(prompts)["input_ids"]
    assert again.sep_token_id == peer.tokenizer.sep_token_id


def test_a_wrong_number_of_pictures_is_refused_by_both(
    ours: ChameleonProcessor, peer: Any, pictures: list[PIL.Image.Image]
) -> None:
    for processor in (ours, peer):
        with pytest.raises((ValueError, IndexError, StopIteration)):
            processor(text=["<image><image>"], images=pictures[:1], return_tensors="pt")


@pytest.mark.parametrize("text", ["the cat", "the catalog", "cat the", "a Cat"])
@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
def test_added_words_have_the_ids_of_the_peer_whichever_file_has_their_flags(
    place: str, flag: str, text: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    data, config = (json.loads((tmp_path / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    word = {"id": len(tokenizer), "content": "cat"} | dict.fromkeys(names, False)
    described = {name: value for name, value in word.items() if name != "id"}
    data["added_tokens"].append(word | ({flag: True} if place == "tokenizer.json" else {}))
    if place == "tokenizer_config.json":
        config["added_tokens_decoder"] = {str(len(tokenizer)): described | {flag: True}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenizerWarning)
        ours = ChameleonProcessor.from_pretrained(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.tokenizer.encode(text) == peer(text, add_special_tokens=False)["input_ids"]
