"""The files of a processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chameleon_text import ChameleonProcessor, FileFormatError, Image, TextTokenizer, _files
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer


class FakeImageProcessor:
    def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Mapping[str, Any]:
        return {"pixel_values": images}

    def to_dict(self) -> dict[str, Any]:
        return {"do_resize": True}


def read(folder: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return data


def test_saving_and_reading_give_the_same_processor(tmp_path: Path) -> None:
    saved = ChameleonProcessor(make_tokenizer(seed=1), image_seq_length=9, padding_side="right")
    saved.save_pretrained(tmp_path)
    again = ChameleonProcessor.from_pretrained(tmp_path)
    assert (again.image_seq_length, again.padding_side, again.image_token) == (9, "right", "<image>")
    assert again(text="the é", padding=True) == saved(text="the é", padding=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json")
    ]


def test_arguments_win_over_the_files(tmp_path: Path) -> None:
    ChameleonProcessor(make_tokenizer(), image_seq_length=9).save_pretrained(tmp_path)
    image_tokenizer = FakeImageTokenizer()
    again = ChameleonProcessor.from_pretrained(tmp_path, image_tokenizer=image_tokenizer, padding_side="right")
    assert (again.image_seq_length, again.padding_side) == (4, "right")
    assert ChameleonProcessor.from_pretrained(tmp_path, image_seq_length=7).image_seq_length == 7


def test_every_special_has_its_name_in_transformers(tmp_path: Path) -> None:
    ChameleonProcessor(make_tokenizer(placeholder="<reserved08707>")).save_pretrained(tmp_path)
    config = read(tmp_path, "tokenizer_config.json")
    assert {name: config[name] for name in config if name.endswith("_token")} == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "<reserved08706>",
        "image_token": "<reserved08707>",
        "boi_token": "<racm3:break>",
        "eoi_token": "<eoss>",
    }


def test_the_placeholder_of_a_published_vocabulary_stays_spelled_image(tmp_path: Path) -> None:
    ChameleonProcessor(make_tokenizer(placeholder="<reserved08707>")).save_pretrained(tmp_path)
    again = ChameleonProcessor.from_pretrained(tmp_path, image_tokenizer=FakeImageTokenizer())
    picture = FakeImageTokenizer().decode([[1, 2, 3, 4]])[0]
    (row,) = again(text="<image>", images=[picture]).input_ids
    assert again.decode_document(row) == [Image(codes=(1, 2, 3, 4))]


def test_the_image_processors_constants_are_written_where_either_layout_looks(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    ChameleonProcessor(tokenizer, image_processor=FakeImageProcessor()).save_pretrained(tmp_path)
    assert read(tmp_path, "preprocessor_config.json") == {"do_resize": True}
    assert read(tmp_path, "processor_config.json")["image_processor"] == {"do_resize": True}


def test_what_a_file_says_beyond_this_class_is_kept(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "processor_config.json"):
        _files.write_json(tmp_path / name, read(tmp_path, name) | {"model_max_length": 4096})
    ChameleonProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    for name in ("tokenizer_config.json", "processor_config.json"):
        assert read(tmp_path / "again", name)["model_max_length"] == 4096


def test_a_tokenizer_alone_is_enough(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    processor = ChameleonProcessor.from_pretrained(tmp_path)
    assert (processor.image_seq_length, processor.padding_side) == (1024, "left")


def test_a_token_may_be_written_as_an_object(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    _files.write_json(tmp_path / "tokenizer_config.json", {"image_token": {"content": "<sentinel:0>"}})
    processor = ChameleonProcessor.from_pretrained(tmp_path)
    assert processor.image_token == "<sentinel:0>"
    assert processor.vocabulary.image_placeholder_id == tokenizer.token_ids["<sentinel:0>"]


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json doesn't exist"):
        ChameleonProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json is not valid JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds a JSON list"),
        ("processor_config.json", '{"image_seq_length": "many"}', "image_seq_length is 'many', expected int"),
        ("tokenizer_config.json", '{"image_token": 3}', "image_token is 3, expected str"),
    ],
)
def test_a_broken_file_is_an_error(
    name: str, content: str, message: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(FileFormatError, match=message):
        ChameleonProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_an_interrupted_save_leaves_the_old_file_intact(
    name: str, tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ChameleonProcessor(tokenizer, image_seq_length=9).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_text = Path.write_text

    def interrupted(path: Path, text: str, **options: Any) -> int:
        if name in path.name:
            write_text(path, text[: len(text) // 2], **options)
            raise KeyboardInterrupt
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ChameleonProcessor(make_tokenizer(seed=5), image_seq_length=7).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before.keys()
    assert (tmp_path / name).read_bytes() == before[name]
