"""The files of a processor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chameleon_text import (
    ChameleonProcessor,
    ChameleonTextError,
    FileAccessError,
    FileFormatError,
    Image,
    MissingFileError,
    TextTokenizer,
    TokenizerWarning,
    _files,
)
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
        *("chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
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
        "unk_token": "<unk>",
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


class FakeWithConstants(FakeImageTokenizer):
    image_processor = FakeImageProcessor()


def test_the_constants_of_the_image_tokenizer_are_written(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ChameleonProcessor(tokenizer, image_tokenizer=FakeWithConstants()).save_pretrained(tmp_path)
    assert read(tmp_path, "preprocessor_config.json") == {"do_resize": True}
    assert read(tmp_path, "processor_config.json")["image_processor"] == {"do_resize": True}


def test_what_a_folder_says_of_pictures_survives_a_processor_that_reads_none(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    ChameleonProcessor(tokenizer, image_processor=FakeImageProcessor()).save_pretrained(tmp_path)
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    assert read(tmp_path, "processor_config.json")["image_processor"] == {"do_resize": True}
    assert read(tmp_path, "preprocessor_config.json") == {"do_resize": True}
    ChameleonProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "copy")
    assert read(tmp_path / "copy", "preprocessor_config.json") == {"do_resize": True}


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("tokenizer_config.json", {"pad_token": "<none>"}, "pad_token is '<none>' in .*, and '<pad>' is used"),
        ("tokenizer_config.json", {"eos_token": {"content": "<eoss>"}}, "eos_token is '<eoss>'"),
        ("tokenizer_config.json", {"extra_special_tokens": {"boi_token": "<s>"}}, "boi_token is '<s>'"),
        ("tokenizer_config.json", {"add_bos_token": False}, "add_bos_token is false"),
        ("tokenizer_config.json", {"add_eos_token": True}, "add_eos_token is true"),
        ("tokenizer_config.json", {"add_prefix_space": True}, "no space is put before a text"),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}, "decoded text is left as it is"),
        ("special_tokens_map.json", {"eos_token": {"content": "<end>"}}, "eos_token is '<end>' in special_tokens_map"),
        ("added_tokens.json", {"<new>": 9}, "'<new>' of added_tokens.json aren't in tokenizer.json under these ids"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"0": {"content": "<ss>", "special": True}}},
            "'<ss>' are as tokenizer.json has them",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"9" * 5000: {"content": "cow"}}},
            "'cow' are as tokenizer.json has them",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"0": {"content": "<s>", "lstrip": "yes"}}},
            "'<s>' are as tokenizer.json has them",
        ),
    ],
)
def test_what_a_config_asks_for_and_is_not_done_is_said(
    name: str, config: dict[str, Any], said: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    _files.write_json(tmp_path / name, config)
    with pytest.warns(TokenizerWarning, match=said):
        ChameleonProcessor.from_pretrained(tmp_path)


def test_configs_that_agree_with_the_tokenizer_say_nothing(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    decoder = {str(token.pop("id")): token for token in tokenizer.added_tokens()}
    config = read(tmp_path, "tokenizer_config.json")
    more = {"added_tokens_decoder": decoder, "model_max_length": 10**30, "add_bos_token": True, "unk_token": None}
    _files.write_json(tmp_path / "tokenizer_config.json", config | more)
    ChameleonProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[" * 100_000, b"NaN", b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}', b"3", b"null"],
)
def test_whatever_a_file_holds_raises_this_packages_errors(
    name: str, content: bytes, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=name):
        ChameleonProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("processor_config.json", {"image_seq_length": 10**12}),
        ("processor_config.json", {"image_seq_length": 0}),
        ("processor_config.json", {"image_seq_length": True}),
        ("processor_config.json", {"image_seq_length": 1.5}),
        ("processor_config.json", {"image_token": []}),
        ("tokenizer_config.json", {"image_token": {"content": None, "x": 1}, "padding_side": 3}),
        ("tokenizer_config.json", {"padding_side": "lefft"}),
        ("tokenizer_config.json", {"padding_side": ["left"]}),
        ("tokenizer_config.json", {"image_token": "a"}),
        ("tokenizer_config.json", {"image_token": "<nosuch>"}),
    ],
)
def test_a_value_that_is_needed_and_wrong_raises_this_packages_errors(
    name: str, config: dict[str, Any], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    _files.write_json(tmp_path / name, config)
    with pytest.raises(ChameleonTextError):
        ChameleonProcessor.from_pretrained(tmp_path)


def test_a_file_that_is_not_needed_stops_nothing(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(b"\xff")
    _files.write_json(tmp_path / "processor_config.json", {"image_seq_length": "many", "image_token": "<image>"})
    processor = ChameleonProcessor.from_pretrained(tmp_path, image_tokenizer=FakeImageTokenizer())
    assert processor.image_seq_length == 4


def test_an_image_processor_is_loaded_with_the_config_of_the_model(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    _files.write_json(tmp_path / "config.json", {"vq_config": {"resolution": 64}})
    monkeypatch.setattr("chameleon_text.processor.reads_pictures", lambda: True)
    monkeypatch.setattr("chameleon_text.processor.image_processor_of", lambda folder, config: config["vq_config"])
    assert ChameleonProcessor.from_pretrained(tmp_path).image_processor == {"resolution": 64}


@pytest.mark.parametrize("folder", [None, 3, "no\0folder"])
def test_what_is_no_path_is_an_error(folder: Any) -> None:
    with pytest.raises(ChameleonTextError):
        ChameleonProcessor.from_pretrained(folder)


def test_a_folder_in_the_place_of_a_file_and_the_other_way_round_are_errors(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(FileAccessError, match=r"tokenizer\.json is a folder, expected a file"):
        ChameleonProcessor.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match="file can't be written: File exists"):
        ChameleonProcessor(tokenizer).save_pretrained(tmp_path / "file")
    with pytest.raises(FileAccessError, match="can't be written"):
        tokenizer.save(tmp_path / "file" / "tokenizer.json")


def test_a_full_disk_is_an_error_that_says_so(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FileAccessError, match=r"can't be written: No space left on device"):
        ChameleonProcessor(tokenizer).save_pretrained(tmp_path)


@pytest.mark.parametrize(("flags", "text"), [({"single_word": True}, "a catalog"), ({"normalized": True}, "a cat")])
def test_flags_in_the_tokenizers_config_win_as_in_transformers(
    flags: dict[str, bool], text: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    data = json.loads(tokenizer.to_json())
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    word = {"id": len(tokenizer), "content": "cat"} | dict.fromkeys(names, False)
    _files.write_json(tmp_path / "tokenizer.json", data | {"added_tokens": [*data["added_tokens"], word]})
    decoder = {str(len(tokenizer)): {"content": "cat"} | flags}
    _files.write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    processor = ChameleonProcessor.from_pretrained(tmp_path)
    expected = TextTokenizer(data | {"added_tokens": [*data["added_tokens"], word | flags]})
    assert processor.tokenizer.encode(text) == expected.encode(text)
    processor.save_pretrained(tmp_path / "again")
    assert TextTokenizer.from_file(tmp_path / "again" / "tokenizer.json").encode(text) == expected.encode(text)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ChameleonProcessor(tokenizer).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileAccessError, match="is a pipe"):
        ChameleonProcessor.from_pretrained(tmp_path)


def test_a_folder_with_another_tokenizer_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(MissingFileError, match=r"has tokenizer\.model and no tokenizer\.json.* Convert it"):
        ChameleonProcessor.from_pretrained(tmp_path)
