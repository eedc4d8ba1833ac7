"""Prompts and documents to ids and back."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import (
    ChameleonProcessor,
    ChameleonTextError,
    ConfigError,
    Document,
    DocumentError,
    Image,
    ImageCountError,
    MissingPackageError,
    ReadOnlyError,
    Special,
    Text,
    TextTokenizer,
    TrainingExample,
    UnknownPluginError,
    VocabularyError,
    normalized,
)
from chameleon_text.prompts import NameSplitter
from chameleon_text.testing import FakeImageTokenizer, documents, make_tokenizer, permuted_tokenizers, texts

Pixels = npt.NDArray[np.uint8]


class FakeImageProcessor:
    """Pixels of 2×2, whose value is the picture's first byte."""

    def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Mapping[str, Any]:
        firsts = [np.asarray(image).flat[0] for image in images]
        return {"pixel_values": np.stack([np.full((3, 2, 2), first, np.float32) for first in firsts])}


def painted(*codes: int) -> Pixels:
    return FakeImageTokenizer().decode([codes])[0]


def spelled(processor: ChameleonProcessor, ids: list[int]) -> list[str]:
    return [processor.tokenizer.names[token_id] for token_id in ids]


# Documents.


@given(permuted_tokenizers(), documents())
def test_a_document_comes_back_from_its_ids(tokenizer: TextTokenizer, document: Document) -> None:
    processor = ChameleonProcessor(tokenizer, image_seq_length=4)
    assert processor.decode_document(processor.encode(document)) == normalized(document)


@given(documents(), st.sampled_from(["chat", "completion"]), st.booleans())
def test_a_document_comes_back_whatever_is_put_around_it(document: Document, template: str, add_bos: bool) -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_seq_length=4)
    ids = processor.encode(document, template=template, add_bos=add_bos)
    assert ids.count(processor.vocabulary.bos_id) == add_bos
    assert processor.decode_document(ids) == normalized(document)


@given(documents())
def test_the_normal_form_has_the_same_ids(document: Document) -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_seq_length=4)
    assert processor.encode(document) == processor.encode(normalized(document))


@given(st.lists(st.integers(0, len(make_tokenizer()) - 1), max_size=24))
def test_any_ids_are_a_document_that_has_all_their_codes(ids: list[int]) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    pictures = [segment for segment in processor.decode_document(ids) if isinstance(segment, Image)]
    codes = [code for picture in pictures for code in picture.codes or ()]
    assert codes == [code for code in processor.vocabulary.id_to_code[ids].tolist() if code >= 0]


def test_a_picture_is_its_codes_between_two_markers(processor: ChameleonProcessor, picture: Pixels) -> None:
    ids = processor.encode(["a", picture])
    assert spelled(processor, ids) == [
        *("<s>", "a", "<racm3:break>"),
        *("IMGIMGFZ", "IMGIMGGZ", "IMGIMGHZ", "IMGIMGIZ"),
        "<eoss>",
    ]
    assert processor.decode_document(ids) == [Text("a"), Image(codes=(5, 6, 7, 8))]


def test_all_pictures_of_a_request_are_read_as_one_batch(
    processor: ChameleonProcessor, image_tokenizer: FakeImageTokenizer, picture: Pixels
) -> None:
    processor.encode([picture, "and", picture, Image(codes=(1, 2, 3, 4))])
    assert image_tokenizer.calls == 1
    processor(text=["<image>", "<image><image>"], images=[picture] * 3)
    assert image_tokenizer.calls == 2


def test_an_unfinished_picture_has_the_codes_that_are_there(processor: ChameleonProcessor) -> None:
    ids = processor.encode([Text("a"), Image(codes=(1, 2, 3, 4))])
    assert processor.decode_document(ids[:5]) == [Text("a"), Image(codes=(1, 2))]
    assert processor.decode_document(ids[:3]) == [Text("a"), Image(codes=())]
    assert processor.decode_document(ids[4:]) == [Image(codes=(2, 3, 4))]


def test_specials_end_a_text_and_are_left_out(processor: ChameleonProcessor) -> None:
    ids = processor.encode([Text("a"), Special("<reserved08706>"), Text("b"), Special("</s>")])
    assert spelled(processor, ids) == ["<s>", "a", "<reserved08706>", "b", "</s>"]
    assert processor.decode_document(ids) == [Text("a"), Text("b")]


def test_a_special_that_is_none_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(DocumentError, match=r"Special\('the'\).* no special"):
        processor.encode([Special("the")])


def test_drawing_paints_the_complete_pictures(processor: ChameleonProcessor, picture: Pixels) -> None:
    document = processor.decode_document(processor.encode(["a", picture]))
    unfinished = Image(codes=(1, 2))
    assert processor.draw([*document, unfinished]) == [Text("a"), Image(picture, (5, 6, 7, 8)), unfinished]


def test_drawing_without_an_image_tokenizer_names_the_install_line(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chameleon_text.optional_packages.reads_pictures", lambda: False)
    processor = ChameleonProcessor(tokenizer, image_seq_length=2)
    assert processor.draw("text") == [Text("text")]
    with pytest.raises(MissingPackageError, match=r"pip install \./packages/chameleon-vq"):
        processor.draw([Image(codes=(1, 2))])


def test_a_code_out_of_range_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(VocabularyError, match=r"code 64 .* 0 to 63"):
        processor.encode([Image(codes=(1, 2, 3, 64))])


def test_an_id_out_of_range_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(VocabularyError, match="id 70000 has no name"):
        processor.decode_document([70000])


def test_a_batch_where_one_row_is_expected_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match=r"expected an id, found a list\. Pass one row"):
        processor.decode_document([[1, 2]])


# Prompts.


def test_a_prompt_in_chat_ends_with_the_separator(processor: ChameleonProcessor) -> None:
    ids = processor(text="a").input_ids
    assert [spelled(processor, row) for row in ids] == [["<s>", "a", "<reserved08706>"]]
    ids = processor(text="a", return_for_text_completion=True).input_ids
    assert [spelled(processor, row) for row in ids] == [["<s>", "a"]]


def test_a_file_without_a_post_processor_begins_a_stream_all_the_same() -> None:
    processor = ChameleonProcessor(make_tokenizer(adds_bos=False))
    assert spelled(processor, processor(text="a").input_ids[0]) == ["<s>", "a", "<reserved08706>"]


def test_prompts_share_one_list_of_pictures(processor: ChameleonProcessor) -> None:
    pictures = [painted(1, 1, 1, 1), painted(2, 2, 2, 2), painted(3, 3, 3, 3)]
    prompts = ["Both:<image><image>", "<image>This?", "none"]
    batch = processor(text=prompts, images=pictures, padding=True)
    of_rows = [
        [segment.codes[0] for segment in processor.decode_document(row) if isinstance(segment, Image) and segment.codes]
        for row in batch.input_ids
    ]
    assert of_rows == [[1, 2], [3], []]
    nested = processor(text=prompts, images=[pictures[:2], pictures[2:], []], padding=True)
    assert nested.input_ids == batch.input_ids


def test_a_picture_becomes_placeholders_and_pixels_with_an_image_processor(
    tokenizer: TextTokenizer, picture: Pixels
) -> None:
    processor = ChameleonProcessor(tokenizer, image_processor=FakeImageProcessor(), image_seq_length=3)
    batch = processor(text="<image>", images=picture, return_tensors="np")
    names = spelled(processor, batch.input_ids[0].tolist())
    assert names == ["<s>", "<racm3:break>", "<image>", "<image>", "<image>", "<eoss>", "<reserved08706>"]
    assert batch.pixel_values.shape == (1, 3, 2, 2)
    assert processor.decode_document(batch.input_ids[0]) == [Image()]


def test_an_image_tokenizer_wins_over_an_image_processor(tokenizer: TextTokenizer, picture: Pixels) -> None:
    processor = ChameleonProcessor(
        tokenizer, image_tokenizer=FakeImageTokenizer(), image_processor=FakeImageProcessor()
    )
    assert set(processor(text="<image>", images=[picture])) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [
        (["<image>", "<image><image>"], 2, r"2 pictures for 3 placeholders \(by prompt: 1, 2\)"),
        (["a"], 1, r"1 picture for 0 placeholders \(by prompt: 0\)"),
        ("<image>", 0, r"0 pictures for 1 placeholder \(by prompt: 1\)"),
    ],
)
def test_a_wrong_number_of_pictures_is_an_error(
    prompts: Any, count: int, message: str, processor: ChameleonProcessor, picture: Pixels
) -> None:
    with pytest.raises(ImageCountError, match=message):
        processor(text=prompts, images=[picture] * count)


def test_pictures_listed_by_prompt_must_fit_each_prompt(processor: ChameleonProcessor, picture: Pixels) -> None:
    with pytest.raises(ImageCountError, match="pictures by prompt are 1, 2 and the placeholders 2, 1"):
        processor(text=["<image><image>", "<image>"], images=[[picture], [picture, picture]])


def test_a_picture_without_a_reader_names_the_argument_and_the_install_line(
    tokenizer: TextTokenizer, picture: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chameleon_text.optional_packages.reads_pictures", lambda: False)
    processor = ChameleonProcessor(tokenizer)
    message = r"image_tokenizer=.*image_processor=.*pip install \./packages/chameleon-vq"
    with pytest.raises(MissingPackageError, match=message):
        processor(text="<image>", images=picture)
    with pytest.raises(MissingPackageError, match=message):
        processor.encode([picture])


@given(texts())
def test_what_a_prompt_spells_is_text_but_for_the_placeholder(text: str) -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_tokenizer=FakeImageTokenizer())
    pictures = [painted(1, 1, 1, 1)] * text.count("<image>")
    (row,) = processor(text=text, images=pictures, return_for_text_completion=True).input_ids
    document = processor.decode_document(row)
    assert "<image>".join(text.split("<image>")) == "".join(
        segment.text if isinstance(segment, Text) else "<image>" for segment in document
    )
    assert set(row[1:]) & processor.vocabulary.special_ids <= {
        processor.vocabulary.begin_image_id,
        processor.vocabulary.end_image_id,
    }


def test_specials_in_a_prompt_are_ids_only_when_they_are_allowed(processor: ChameleonProcessor) -> None:
    eos = processor.vocabulary.eos_id
    assert eos not in processor(text="a</s>").input_ids[0]
    assert eos in processor(text="a</s>", allow_special={"</s>"}).input_ids[0]
    names = spelled(processor, processor(text="<s>a<sentinel:0>", allow_special="all").input_ids[0])
    assert names == ["<s>", "a", "<sentinel:0>", "<reserved08706>"]


def test_allowing_what_is_no_special_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match=r"allow_special names \['the'\]"):
        processor(text="a", allow_special={"the"})


@pytest.mark.parametrize("side", ["left", "right"])
@given(st.lists(texts(max_size=16), min_size=1, max_size=4))
def test_the_rest_of_the_batch_changes_no_row(side: Any, prompts: list[str]) -> None:
    prompts = [prompt.replace("<image>", "") for prompt in prompts]
    processor = ChameleonProcessor(make_tokenizer())
    batch = processor(text=prompts, padding=True, padding_side=side, return_tensors="np")
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    for ids, mask, prompt in zip(batch.input_ids, batch.attention_mask, prompts, strict=True):
        assert ids[mask == 1].tolist() == processor(text=prompt).input_ids[0]
        assert (ids[mask == 0] == processor.vocabulary.pad_id).all()
        assert (np.diff(mask) >= 0).all() if side == "left" else (np.diff(mask) <= 0).all()


def test_padding_is_on_the_left_unless_told() -> None:
    prompts = ["a", "aaa"]
    assert ChameleonProcessor(make_tokenizer())(text=prompts, padding=True).attention_mask[0] == [0, 0, 1, 1, 1]
    right = ChameleonProcessor(make_tokenizer(), padding_side="right")
    assert right(text=prompts, padding="longest").attention_mask[0] == [1, 1, 1, 0, 0]
    assert right(text=prompts, padding=True, padding_side="left").attention_mask[0] == [0, 0, 1, 1, 1]
    assert right(text=prompts).attention_mask == [[1, 1, 1], [1, 1, 1, 1, 1]]


def test_rows_of_unequal_length_make_no_tensor(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match=r"rows of \[3, 5\] ids .* padding=True"):
        processor(text=["a", "aaa"], return_tensors="np")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": None}, "text is a NoneType, expected a str"),
        ({"text": [Text("a")]}, "text is a list, expected a str or a list"),
        ({"text": "a", "padding": "max"}, "padding is 'max', expected True or False"),
        ({"text": "a", "padding": "max_length"}, "pass max_length, or set tokenizer.model_max_length"),
        ({"text": "a", "padding_side": "up"}, "padding_side is 'up'"),
        ({"text": "a", "return_tensors": "tf"}, "return_tensors is 'tf'"),
        ({"text": "a", "labels": "some"}, "labels is 'some'"),
        ({"text": "a", "labels": "answer"}, "needs the answers"),
        ({"text": "a", "answers": ["b", "c"]}, "1 prompts and 2 answers"),
    ],
)
def test_an_impossible_argument_is_an_error(
    options: dict[str, Any], message: str, processor: ChameleonProcessor
) -> None:
    with pytest.raises(ConfigError, match=message):
        processor(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_seq_length": 0}, "image_seq_length is 0"),
        ({"padding_side": "up"}, "padding_side is 'up'"),
        ({"image_tokenizer": FakeImageTokenizer(32)}, "32 codes and the vocabulary names 64"),
        ({"image_tokenizer": FakeImageTokenizer(), "image_seq_length": 1024}, "image_seq_length is 1024, .* makes 4"),
        ({"image_token": "the"}, "image_token 'the' is text"),
    ],
)
def test_parts_that_do_not_fit_together_are_an_error(
    options: dict[str, Any], message: str, tokenizer: TextTokenizer
) -> None:
    with pytest.raises(ConfigError, match=message):
        ChameleonProcessor(tokenizer, **options)


def test_a_tokenizer_without_the_specials_is_an_error() -> None:
    data = json.loads(make_tokenizer(added_tokens=False).to_json())
    for name in ("<eoss>", "<reserved08706>"):
        del data["model"]["vocab"][name]
    with pytest.raises(VocabularyError, match="lacks '<eoss>', '<reserved08706>'"):
        ChameleonProcessor(TextTokenizer(data))


def test_an_unknown_template_is_an_error(tokenizer: TextTokenizer, processor: ChameleonProcessor) -> None:
    with pytest.raises(UnknownPluginError, match=r"no template named 'chta'.*Did you mean 'chat'"):
        ChameleonProcessor(tokenizer, template="chta")
    with pytest.raises(UnknownPluginError, match="no template named 'chta'"):
        processor.encode("a", template="chta")


def test_a_picture_length_comes_from_the_image_tokenizer_or_is_the_published_one(
    tokenizer: TextTokenizer, processor: ChameleonProcessor
) -> None:
    assert processor.image_seq_length == 4
    assert ChameleonProcessor(tokenizer).image_seq_length == 1024


# Text of ids.


def test_rows_decode_to_texts_with_and_without_specials(processor: ChameleonProcessor, picture: Pixels) -> None:
    batch = processor(text=["a<image>", "the"], images=[picture], padding=True, return_tensors="np")
    pads = "<pad>" * 6
    assert processor.batch_decode(batch.input_ids)[1] == f"{pads}<s>the<reserved08706>"
    skipped = processor.batch_decode(batch.input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert skipped == ["a", "the"]


def test_text_is_not_cleaned_up(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="clean_up_tokenization_spaces"):
        processor.decode([], clean_up_tokenization_spaces=True)


# The batch.


def test_a_batch_is_a_mapping_with_its_entries_as_attributes(processor: ChameleonProcessor) -> None:
    batch = processor(text="a")
    assert dict(batch) == {"input_ids": batch.input_ids, "attention_mask": batch["attention_mask"]}
    assert dict(pickle.loads(pickle.dumps(batch))) == dict(batch)
    assert repr(batch) == "ProcessorBatch(input_ids: (1,), attention_mask: (1,))"
    with pytest.raises(AttributeError, match="no 'labels', only input_ids, attention_mask"):
        _ = batch.labels


def test_tensors_without_torch_name_the_install_line(
    processor: ChameleonProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="pip install torch"):
        processor(text="a", return_tensors="pt")
    with pytest.raises(MissingPackageError, match="pip install torch"):
        processor(text="a").to("cpu")


# Nothing is accepted and then ignored.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer", "can't change once it is made"),
        ("image_tokenizer", "can't change once it is made"),
        ("image_token", "can't change once it is made"),
        ("vocabulary", "follows from the others"),
        ("paddding_side", "Did you mean 'padding_side'"),
        ("chat_templat", "Did you mean 'chat_template'"),
        ("pad_token", "special tokens are processor.tokenizer's"),
    ],
)
def test_what_would_do_nothing_is_not_assigned(name: str, said: str) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    with pytest.raises(ReadOnlyError, match=said):
        setattr(processor, name, None)


def test_what_is_assigned_is_used() -> None:
    processor = ChameleonProcessor(make_tokenizer())
    processor.padding_side = "right"
    batch = processor(["the red apple", "the"], padding=True)
    assert batch.attention_mask[1][-1] == 0
    processor.template = "completion"
    assert processor.decode(processor(text="a").input_ids[0]) == "<s>a"
    processor.image_processor = FakeImageProcessor()
    assert "pixel_values" in processor("<image>", images=[painted(1, 2, 3, 4)])
    for name, value in (("padding_side", "up"), ("image_processor", 3)):
        with pytest.raises(ConfigError, match=name):
            setattr(processor, name, value)
    with pytest.raises(UnknownPluginError):
        processor.template = "chatt"
    batch.input_ids = []
    assert batch["input_ids"] == []
    batch["extra"] = 3
    assert batch.pop("extra") == 3
    del batch.attention_mask
    assert set(batch) == {"input_ids"}
    with pytest.raises(AttributeError, match="to of a ProcessorBatch"):
        batch.to = 3


def test_a_subclass_has_attributes_of_its_own() -> None:
    class Mine(ChameleonProcessor):
        def __init__(self, tokenizer: TextTokenizer) -> None:
            super().__init__(tokenizer)
            self.mine = 3

    processor = Mine(make_tokenizer())
    assert processor.mine == 3
    with pytest.raises(ReadOnlyError):
        processor.tokenizer = make_tokenizer()


@pytest.mark.parametrize("ids", [[-1], [363], [10**30]])
def test_a_batch_has_no_id_outside_the_vocabulary(ids: list[int]) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    with pytest.raises(VocabularyError, match=r"row 1 has the id .*, which has no name"):
        processor.pad([[1], ids])


@pytest.mark.parametrize("rows", [None, 3, [[1.5]], [[True]], ["ab"], [[[1]]], [1], [TrainingExample([1, 2], [1])]])
def test_what_is_no_row_is_not_padded(rows: Any) -> None:
    with pytest.raises(ConfigError):
        ChameleonProcessor(make_tokenizer()).pad(rows)


@pytest.mark.parametrize("ids", [None, 3, "12", [1.5], [[1.5]], {1: 2}])
def test_what_is_no_batch_is_not_decoded(ids: Any) -> None:
    with pytest.raises(ConfigError):
        ChameleonProcessor(make_tokenizer()).batch_decode(ids)


@pytest.mark.parametrize("allowed", [3, [3], None, ["</s>", 3]])
def test_special_tokens_are_allowed_by_their_names(allowed: Any) -> None:
    with pytest.raises(ConfigError, match="allow_special"):
        ChameleonProcessor(make_tokenizer())("a", allow_special=allowed)
    batch = ChameleonProcessor(make_tokenizer())("a</s>", allow_special="</s>", return_for_text_completion=True)
    assert len(batch.input_ids[0]) == 3


@pytest.mark.parametrize("codes", [[1.5], [True], ["a"], [[1]], [[1], [1, 2]], [2**70], [-1], [None], None])
def test_codes_are_one_row_of_integers_in_range(codes: Any) -> None:
    vocabulary = ChameleonProcessor(make_tokenizer()).vocabulary
    for convert in (vocabulary.codes_to_ids, vocabulary.ids_to_codes):
        with pytest.raises(VocabularyError):
            convert(codes)
    assert vocabulary.codes_to_ids([]) == []


@pytest.mark.parametrize("codes", [[[1.5] * 4], [["a"] * 4], [[99] * 4], [[-1] * 4], [[1] * 4] * 2, [1] * 4])
def test_what_an_image_tokenizer_may_not_return_is_an_error(codes: Any) -> None:
    image_tokenizer = FakeImageTokenizer()
    image_tokenizer.encode = lambda images: codes  # type: ignore[method-assign]
    processor = ChameleonProcessor(make_tokenizer(), image_tokenizer=image_tokenizer)
    with pytest.raises(ChameleonTextError):
        processor.encode([painted(1, 2, 3, 4)])


@pytest.mark.parametrize("value", [np.zeros(2), [1], {}, object()])
def test_an_argument_of_another_kind_is_a_config_error(value: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    for name in ("padding", "padding_side", "labels", "return_tensors"):
        with pytest.raises(ConfigError, match=name):
            processor("a", **{name: value})


name_sets = st.sets(st.text("<ab>-^]", min_size=1, max_size=4), min_size=1, max_size=6)


@given(name_sets, st.text("<ab>-^]", max_size=20))
def test_names_are_found_where_a_pattern_of_them_all_finds_them(names: set[str], text: str) -> None:
    pattern = re.compile(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})")
    assert NameSplitter(names)(text) == pattern.split(text)


@pytest.mark.parametrize("part", ["tokenizer", "image_token", "image_tokenizer"])
@pytest.mark.parametrize("value", [3, "tokenizer.json", [], object()])
def test_a_part_of_another_kind_is_a_config_error(part: str, value: Any) -> None:
    if part == "image_token" and isinstance(value, str):
        return
    parts: dict[str, Any] = {"tokenizer": make_tokenizer(), part: value}
    with pytest.raises(ConfigError, match=f"{part} is"):
        ChameleonProcessor(**parts)


def test_what_an_image_processor_may_not_return_is_an_error() -> None:
    class Wrong(FakeImageProcessor):
        def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Any:
            return None

    with pytest.raises(ConfigError, match="without 'pixel_values'"):
        ChameleonProcessor(make_tokenizer(), image_processor=Wrong())("<image>", images=[painted(1, 2, 3, 4)])


@pytest.mark.parametrize(("device", "dtype"), [("nowhere", None), ("meta:x", None), (None, "bfloat16"), (3.5, None)])
def test_a_device_that_is_not_there_is_a_config_error(device: Any, dtype: Any) -> None:
    pytest.importorskip("torch")
    processor = ChameleonProcessor(make_tokenizer(), image_processor=FakeImageProcessor())
    batch = processor("a", return_tensors="pt")
    with pytest.raises(ConfigError, match=r"can't be moved to device|dtype is"):
        batch.to(device, dtype)
