"""What users of ``transformers`` type at processors and tokenizers: it works, or says what to do."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import (
    ChameleonProcessor,
    ConfigError,
    DocumentError,
    ImageCountError,
    MissingPackageError,
    ReadOnlyError,
    TextTokenizer,
    VocabularyError,
)
from chameleon_text.compat.chat import CHAT_TEMPLATE
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer, texts

USER = {"role": "user", "content": "What is this?"}
ANSWER = {"role": "assistant", "content": "a red apple"}
SYSTEM = {"role": "system", "content": "the"}


class Painter:
    """An image processor that remembers how it was called."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.images: list[Any] = []

    def preprocess(self, images: list[Any], *, return_tensors: Any = None, **arguments: Any) -> Mapping[str, Any]:
        self.images, self.arguments = images, arguments
        return {"pixel_values": np.zeros((len(images), 3, 2, 2), np.float32)}


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def processor(painter: Painter) -> ChameleonProcessor:
    return ChameleonProcessor(painter, make_tokenizer(), 4)


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return make_tokenizer()


PICTURE = np.zeros((2, 2, 3), np.uint8)


# The processor's call.


def test_pictures_come_before_text_unless_their_types_say_otherwise(processor: ChameleonProcessor) -> None:
    expected = processor(images=PICTURE, text="a<image>").input_ids
    for inputs in ((PICTURE, "a<image>"), ("a<image>", PICTURE), ([PICTURE], ["a<image>"]), ("cat.png", "a<image>")):
        assert processor(*inputs).input_ids == expected
    assert processor("a").input_ids == processor(text="a").input_ids
    assert set(processor(images=PICTURE)) == {"pixel_values"}
    with pytest.raises(ConfigError, match="each once"):
        processor("a", PICTURE, text="b")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 3), np.uint8),
        [np.zeros((2, 4, 4, 3), np.uint8)],
        [[PICTURE], [PICTURE]],
        [PICTURE, PICTURE],
        (PICTURE, "cat.png"),
    ],
    ids=["array", "array in a list", "nested", "list", "paths"],
)
def test_pictures_come_in_every_form(images: Any, processor: ChameleonProcessor, painter: Painter) -> None:
    processor(images=images, text=["<image>", "<image>"], padding=True)
    assert len(painter.images) == 2


def test_arguments_about_pictures_reach_the_image_processor(processor: ChameleonProcessor, painter: Painter) -> None:
    processor(PICTURE, "<image>", do_resize=False, images_kwargs={"size": {"shortest_edge": 3}}, crop_size=None)
    assert painter.arguments == {"do_resize": False, "size": {"shortest_edge": 3}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images_kwargs": {"do_resize": True}, "do_resize": False}, "given twice"),
        ({"text_kwargs": {"do_resize": True}}, "Pass it in images_kwargs"),
        ({"images_kwargs": {"padding": True}}, "no argument about pictures"),
        ({"text_kwargs": 3}, "expected a mapping"),
        ({"videos": ["a.mp4"]}, "reads text and pictures"),
        ({"do_resize": False}, "there are no pictures"),
        ({"paddin": True}, "Did you mean 'padding'"),
        ({"text_pair": "a"}, "reads one text"),
        ({"return_offsets_mapping": True}, r"processor\.tokenizer\(text"),
        ({"max_length": 3, "padding": True}, "would do nothing"),
        ({"truncation": True}, "set tokenizer.model_max_length"),
        ({"pad_to_multiple_of": 8}, "needs padding"),
        ({"max_length": 0}, "an integer ≥ 1"),
        ({"return_mm_token_type_ids": "yes"}, "expected True or False"),
    ],
    ids=str,
)
def test_an_argument_without_effect_is_refused(
    arguments: dict[str, Any], message: str, processor: ChameleonProcessor
) -> None:
    with pytest.raises(ConfigError, match=message):
        processor(text="the red apple", **arguments)


def test_an_image_tokenizer_takes_no_arguments_about_pictures() -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_tokenizer=FakeImageTokenizer())
    picture = FakeImageTokenizer().decode([[1, 2, 3, 4]])[0]
    with pytest.raises(ConfigError, match="do_resize has no effect here: the image tokenizer"):
        processor(picture, "<image>", do_resize=False)


@given(
    prompts=st.lists(texts().map(lambda text: text.replace("<image>", "")), min_size=1, max_size=3),
    length=st.integers(1, 12),
    side=st.sampled_from(["left", "right"]),
)
def test_rows_that_are_cut_and_filled_up_have_the_length(prompts: list[str], length: int, side: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    whole = processor(text=prompts)["input_ids"]
    batch = processor(text=prompts, padding="max_length", truncation=True, max_length=length, truncation_side=side)
    for row, mask, ids in zip(batch.input_ids, batch.attention_mask, whole, strict=True):
        assert len(row) == length
        kept = [each for each, real in zip(row, mask, strict=True) if real]
        rest = ids[1:][-(length - 1) :] if side == "left" else ids[1:length]
        assert kept == [ids[0], *(rest if length > 1 else [])]


def test_a_cut_picture_is_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="would cut a picture"):
        processor(PICTURE, "<image>", truncation=True, max_length=4)
    assert len(processor(PICTURE, "<image>the red apple", truncation=True, max_length=8).input_ids[0]) == 8


def test_ids_of_pictures_are_marked(processor: ChameleonProcessor) -> None:
    batch = processor(PICTURE, "a<image>", return_mm_token_type_ids=True)
    assert batch.mm_token_type_ids == [[0, 0, 1, 1, 1, 1, 1, 1, 0]]
    real = ChameleonProcessor(make_tokenizer(), image_tokenizer=FakeImageTokenizer())
    picture = FakeImageTokenizer().decode([[1, 2, 3, 4]])[0]
    assert real(picture, "a<image>", return_mm_token_type_ids=True).mm_token_type_ids == batch.mm_token_type_ids


def test_columns_are_there_when_asked_for(processor: ChameleonProcessor) -> None:
    batch = processor(
        text=["a", "the red"],
        padding=True,
        return_special_tokens_mask=True,
        return_length=True,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    assert set(batch) == {"input_ids", "special_tokens_mask", "length", "token_type_ids"}
    assert batch.special_tokens_mask == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert batch.length == [4, 4]
    assert processor(text="a", add_special_tokens=False).input_ids == [processor(text="a").input_ids[0][1:]]


def test_what_users_set_is_used(processor: ChameleonProcessor) -> None:
    processor.tokenizer.padding_side = "right"
    assert processor.padding_side == "right"
    assert processor(text=["a", "the red"], padding=True).attention_mask[0] == [1, 1, 1, 0]
    processor.tokenizer.pad_token = "</s>"
    assert processor(text=["a", "the red"], padding=True).input_ids[0][-1] == processor.vocabulary.eos_id
    processor.tokenizer.model_max_length = 3
    assert len(processor(text="the red apple", truncation=True).input_ids[0]) == 3
    processor.image_seq_length = 2
    assert processor(PICTURE, "<image>").input_ids[0].count(processor.image_token_id) == 2
    processor.tokenizer.add_bos_token = False
    assert processor(text="a").input_ids[0][0] != processor.vocabulary.bos_id


def test_words_that_are_added_are_words_of_the_processor(processor: ChameleonProcessor) -> None:
    size = len(processor.tokenizer)
    assert processor.tokenizer.add_tokens(["zebra", "the"]) == 1
    assert len(processor.tokenizer) == len(processor.vocabulary) == size + 1
    ids = processor(text="a zebra").input_ids[0]
    assert size in ids
    assert processor.encode("a zebra") == ids[:-1]
    assert processor.decode_document(ids) == processor.decode_document(processor.encode("a zebra"))


def test_a_tokenizer_of_another_library_is_read(tokenizer: TextTokenizer) -> None:
    class Fast:
        backend_tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_json())

    assert (
        ChameleonProcessor(Painter(), Fast())(text="the").input_ids
        == ChameleonProcessor(tokenizer)(text="the").input_ids
    )


# The tokenizer.


@given(text=texts())
def test_a_call_of_text_without_specials_is_its_ids_after_the_beginning(text: str) -> None:
    tokenizer = make_tokenizer()
    batch = tokenizer(text, split_special_tokens=True)
    assert batch.attention_mask == [1] * len(batch.input_ids)
    assert tokenizer.decode(batch.input_ids) == f"<s>{text}"
    assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(batch.input_ids)) == batch.input_ids
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize(text)) == text


def test_a_call_reads_names_of_specials_and_encode_alone_does_not(tokenizer: TextTokenizer) -> None:
    assert tokenizer("a</s>").input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in tokenizer.encode("a</s>")
    assert tokenizer.eos_token_id not in tokenizer("a</s>", split_special_tokens=True).input_ids
    assert tokenizer.encode("a</s>", add_special_tokens=False) == tokenizer("a</s>").input_ids[1:]


def test_tokens_know_their_places(tokenizer: TextTokenizer) -> None:
    batch = tokenizer(["the red", "a"], padding=True, return_offsets_mapping=True)
    assert batch.offset_mapping[0] == [(0, 0), (0, 3), (3, 7)]
    assert batch.char_to_token(0, 4) == 2
    assert batch.token_to_chars(0, 1) == (0, 3)
    assert batch.word_ids(0) == [None, 0, 1]
    assert batch.tokens(0) == ["<s>", "the", "Ġred"]
    assert (batch[0].ids, batch[:1]["input_ids"], batch.is_fast) == (batch.input_ids[0], batch.input_ids[:1], True)
    assert pickle.loads(pickle.dumps(batch)).tokens(1) == batch.tokens(1)


def test_padding_and_cutting_are_as_they_are_asked_for(tokenizer: TextTokenizer) -> None:
    assert tokenizer(["the red", "a"], padding=True).input_ids[1][0] == tokenizer.pad_token_id
    assert len(tokenizer("the red apple", truncation=True, max_length=3).input_ids) == 3
    assert tokenizer("the red", max_length=2).input_ids == tokenizer("the red").input_ids[:2]
    tokenizer.truncation_side = "left"
    assert tokenizer("the red", max_length=2).tokens() == ["<s>", "Ġred"]
    assert tokenizer("a", padding="max_length", max_length=5, padding_side="right").attention_mask == [1, 1, 0, 0, 0]
    overflow = tokenizer("the red apple", truncation=True, max_length=3, return_overflowing_tokens=True)
    assert overflow.overflow_to_sample_mapping == [0, 0]
    padded = tokenizer.pad([{"input_ids": [5, 6]}, {"input_ids": [7]}], pad_to_multiple_of=4)
    assert padded.data == {"input_ids": [[1, 1, 5, 6], [1, 1, 1, 7]], "attention_mask": [[0, 0, 1, 1], [0, 0, 0, 1]]}
    with pytest.raises(ConfigError, match="don't form a tensor: pass padding=True"):
        tokenizer(["the red", "a"], return_tensors="np")


def test_names_and_ids_of_specials(tokenizer: TextTokenizer) -> None:
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 0)
    assert (tokenizer.cls_token, tokenizer.mask_token_id) == (None, None)
    assert tokenizer.special_tokens_map["sep_token"] == "<reserved08706>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids) == tokenizer.all_special_tokens
    assert tokenizer.get_special_tokens_mask([0, 5], already_has_special_tokens=True) == [1, 0]
    assert tokenizer.convert_tokens_to_ids("no such name") == tokenizer.unk_token_id
    assert tokenizer.num_special_tokens_to_add() == 1
    assert make_tokenizer(placeholder="<reserved08707>").image_token == "<reserved08707>"


def test_ids_in_every_form_are_decoded(tokenizer: TextTokenizer) -> None:
    ids = tokenizer("the").input_ids
    assert tokenizer.decode(np.array(ids)) == "<s>the"
    assert tokenizer.decode(np.array([ids, ids]), skip_special_tokens=True) == ["the", "the"]
    assert tokenizer.decode([np.array(ids), np.array(ids)]) == ["<s>the", "<s>the"]
    assert tokenizer.decode(ids[1]) == "the"
    assert tokenizer.batch_decode(ids) == ["<s>the"]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("bos_token", "<eoss>", ReadOnlyError, "those of the tokenizer.json"),
        ("eos_token_id", 5, ReadOnlyError, "those of the tokenizer.json"),
        ("pad_token", "zebra", VocabularyError, "Add it first"),
        ("pad_token_id", 10**6, VocabularyError, "no name"),
        ("padding_side", "up", ConfigError, "'left' or 'right'"),
        ("model_max_length", 0, ConfigError, "an integer ≥ 1"),
        ("clean_up_tokenization_spaces", True, ConfigError, "change the text"),
        ("chat_template", 3, ConfigError, "in Jinja"),
        ("add_bos_token", "yes", ConfigError, "True or False"),
        ("paddingside", "left", ReadOnlyError, "Did you mean 'padding_side'"),
        ("vocab_size", 3, ReadOnlyError, "follows from the others"),
    ],
)
def test_what_can_not_be_set_says_so(
    name: str, value: Any, error: type[Exception], message: str, tokenizer: TextTokenizer
) -> None:
    with pytest.raises(error, match=message):
        setattr(tokenizer, name, value)


@given(
    words=st.lists(st.text("abcxyz", min_size=2, max_size=5), min_size=1, max_size=3, unique=True),
    special=st.booleans(),
)
def test_added_words_come_back_and_have_new_ids(words: list[str], special: bool) -> None:
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    new = tokenizer.add_tokens(words, special_tokens=special)
    assert len(tokenizer) == size + new
    for word in words:
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids(word)) == word
        assert tokenizer.decode(tokenizer.encode(word)) == word
        if special:
            assert set(tokenizer.encode(word)).isdisjoint(range(size, size + new))
        assert tokenizer(word).input_ids[1:] == [tokenizer.token_ids[word]]
    assert pickle.loads(pickle.dumps(tokenizer)).get_vocab() == tokenizer.get_vocab()


def test_settings_travel_and_are_saved(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.padding_side, tokenizer.pad_token, tokenizer.model_max_length = "right", "</s>", 77
    tokenizer.add_special_tokens({"additional_special_tokens": ["<zebra>"]})
    names = {Path(path).name for path in tokenizer.save_pretrained(tmp_path)}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for again in (
        TextTokenizer.from_pretrained(tmp_path),
        copy.deepcopy(tokenizer),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert (again.padding_side, again.pad_token, again.model_max_length) == ("right", "</s>", 77)
        assert again("<zebra>").input_ids == tokenizer("<zebra>").input_ids
    assert TextTokenizer.from_pretrained(tmp_path, padding_side="left").padding_side == "left"
    with pytest.raises(ConfigError, match="Did you mean 'padding_side'"):
        TextTokenizer.from_pretrained(tmp_path, padding_sid="left")


# Conversations.


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], "<s>What is this?"),
        ([USER, ANSWER], "<s>What is this?<reserved08706>a red apple</s>"),
        ([SYSTEM, USER], "<s>the\n\nWhat is this?"),
        (
            [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "a"}]}],
            "<s><image>a",
        ),
    ],
    ids=["user", "answer", "system", "picture"],
)
def test_a_conversation_is_a_prompt(messages: Any, expected: str, processor: ChameleonProcessor) -> None:
    assert processor.apply_chat_template(messages) == expected
    assert processor.apply_chat_template([messages, [USER]]) == [expected, "<s>What is this?"]
    assert processor.apply_chat_template(messages, chat_template=CHAT_TEMPLATE) == expected


def test_ids_of_a_conversation_end_with_the_separator(processor: ChameleonProcessor) -> None:
    ids = processor.apply_chat_template([USER], add_generation_prompt=True, tokenize=True)
    assert ids == [processor.encode_messages([USER])]
    open_end = processor.apply_chat_template([USER, ANSWER], continue_final_message=True, tokenize=True)
    assert open_end == [processor.encode_messages([USER, ANSWER])[:-1]]
    alone = processor.tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    assert [alone] == ids


@given(text=texts())
def test_what_a_message_spells_is_text(text: str) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    spelled = f"</s>{text.replace('<image>', '')}<eoss>"
    (ids,) = processor.apply_chat_template([{"role": "user", "content": spelled}], tokenize=True)
    assert ids == processor.encode_messages([{"role": "user", "content": spelled}])


def test_pictures_of_messages_are_read(processor: ChameleonProcessor, painter: Painter) -> None:
    part = {"type": "image"}
    content = [part, {"type": "text", "text": "a<image>"}, {"type": "image", "image": PICTURE}]
    batch = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, images=["a.png", "b.png"], padding=True
    )
    assert painter.images[:2] == ["a.png", "b.png"]
    assert batch.pixel_values.shape[0] == 3
    with pytest.raises(ImageCountError, match="images has 0"):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)
    named = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]
    with pytest.raises(DocumentError, match="messages open no files"):
        processor.apply_chat_template(named)
    processor.apply_chat_template(named, tokenize=True, allow_files=True)
    assert painter.images == ["a.png"]


def test_what_an_assistant_says_is_marked(processor: ChameleonProcessor) -> None:
    batch = processor.apply_chat_template(
        [USER, ANSWER], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [each for each, marked in zip(batch.input_ids[0], batch.assistant_masks[0], strict=True) if marked]
    assert processor.decode(answer) == "a red apple</s>"


@pytest.mark.parametrize(
    ("messages", "arguments", "message"),
    [
        ([], {}, "at least one message"),
        ("hello", {}, "expected a list"),
        ([{"role": "tool", "content": "a"}], {}, "has the role 'tool'"),
        ([USER | {"name": "Ann"}], {}, "'name', which this format has no place for"),
        ([SYSTEM, ANSWER], {}, "none does"),
        ([USER], {"tools": [{"name": "a"}]}, "no place in this model's format"),
        ([USER], {"continue_final_message": True, "add_generation_prompt": True}, "Pass one of them"),
        ([USER], {"padding": True}, "has no effect on text"),
        ([USER], {"temperatur": 1}, "no argument 'temperatur'"),
        ([USER], {"return_assistant_tokens_mask": True, "tokenize": True}, "needs return_dict"),
    ],
    ids=str,
)
def test_a_conversation_that_is_not_understood_is_an_error(
    messages: Any, arguments: dict[str, Any], message: str, processor: ChameleonProcessor
) -> None:
    with pytest.raises((ConfigError, DocumentError), match=message):
        processor.apply_chat_template(messages, **arguments)


def test_a_template_in_jinja_is_used_or_needs_jinja(
    processor: ChameleonProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2", reason="a template in Jinja needs jinja2")
    template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{{ eos_token }}"
    processor.chat_template = template
    assert processor.apply_chat_template([USER]) == "<s>[user]What is this?</s>"
    ids = processor.apply_chat_template([USER], tokenize=True)[0]
    assert processor.decode(ids) == "<s>[user]What is this?</s><reserved08706>"
    assert ids.count(processor.vocabulary.eos_id) == 1
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackageError, match="pip install 'jinja2"):
        processor.apply_chat_template([USER], chat_template="{{ messages }} ")
    processor.chat_template = None
    assert processor.apply_chat_template([USER]) == "<s>What is this?"


def test_a_folder_keeps_its_chat_template(processor: ChameleonProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    again = ChameleonProcessor.from_pretrained(tmp_path)
    assert again.chat_template == again.tokenizer.get_chat_template() == "{{ messages[0]['content'] }}!"
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}!"


def test_a_processor_says_what_it_is(processor: ChameleonProcessor, tmp_path: Path) -> None:
    assert json.loads(processor.to_json_string())["image_seq_length"] == 4
    processor.to_json_file(tmp_path / "processor.json")
    assert processor.model_input_names == ["pixel_values", "input_ids", "attention_mask"]
    assert processor.image_token_ids == processor.tokenizer.convert_tokens_to_ids(
        ["<image>", "<racm3:break>", "<eoss>"]
    )
    assert processor.post_process_image_text_to_text(processor(text="the").input_ids) == ["the"]
    with pytest.raises(ConfigError, match="decode_document"):
        processor.post_process_multimodal_output([[5]], generation_mode="image")
