"""Text comes back unchanged, and is never anything but text."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import EncodingError, FileFormatError, TextTokenizer, TokenizerWarning, Vocabulary, VocabularyError
from chameleon_text.testing import make_tokenizer, permuted_tokenizers, texts
from chameleon_text.testing.strategies import HOSTILE


def changed(**changes: Any) -> TextTokenizer:
    return TextTokenizer(json.loads(make_tokenizer().to_json()) | changes)


def with_added(content: str, token_id: int, **flags: bool) -> TextTokenizer:
    data = json.loads(make_tokenizer().to_json())
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], False) | flags
    data["added_tokens"].append({"id": token_id, "content": content, **flags})
    return TextTokenizer(data)


@given(permuted_tokenizers(), texts())
def test_decoding_what_was_encoded_gives_the_same_text(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(permuted_tokenizers(), texts())
def test_text_is_never_a_special_or_a_picture(tokenizer: TextTokenizer, text: str) -> None:
    vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
    assert set(tokenizer.encode(text)) <= vocabulary.text_ids


@given(permuted_tokenizers(), st.lists(texts(max_size=16), max_size=4))
def test_ids_of_texts_joined_decode_to_the_texts_joined(tokenizer: TextTokenizer, parts: list[str]) -> None:
    assert tokenizer.decode([token_id for part in parts for token_id in tokenizer.encode(part)]) == "".join(parts)


@given(st.lists(st.integers(0, len(make_tokenizer()) - 1)), st.booleans())
def test_text_that_arrives_id_by_id_is_the_text_of_all_ids(ids: list[int], skip: bool) -> None:
    tokenizer = make_tokenizer()
    stream = tokenizer.stream_decoder(skip_special_tokens=skip)
    streamed = "".join([stream.push(token_id) for token_id in ids]) + stream.flush()
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_character_is_returned_once_it_is_complete(tokenizer: TextTokenizer) -> None:
    stream = tokenizer.stream_decoder()
    ids = tokenizer.encode("😀")
    assert [stream.push(token_id) for token_id in ids] == ["", "", "", "😀"]
    stream.push(ids[0])
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert stream.push(tokenizer.encode("a")[0]) == "a"


@pytest.mark.parametrize("added_tokens", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_spells_a_special_is_text(name: str, added_tokens: bool) -> None:
    tokenizer = make_tokenizer(words=(name,), added_tokens=added_tokens)
    ids = tokenizer.encode(f"a{name}b")
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == f"a{name}b"


def test_a_word_of_the_bpe_that_names_a_code_is_spelled_by_letters() -> None:
    tokenizer = make_tokenizer(added_tokens=False)
    assert [tokenizer.names[token_id] for token_id in tokenizer.encode("IMGIMGBZ")] == list("IMGIMGBZ")


def test_a_word_that_begins_like_a_special_and_is_merged_is_text() -> None:
    tokenizer = make_tokenizer(words=("</",))
    assert [tokenizer.names[token_id] for token_id in tokenizer.encode("</s>")] == ["</", "s", ">"]
    assert tokenizer.token_ids["</"] not in tokenizer.special_ids
    assert tokenizer.token_ids["<sentinel:0>"] in make_tokenizer(added_tokens=False).special_ids


def test_merges_are_used(tokenizer: TextTokenizer) -> None:
    assert [tokenizer.names[token_id] for token_id in tokenizer.encode("the red apple")] == ["the", "Ġred", "Ġapple"]


def test_an_ordinary_added_token_is_matched_in_text() -> None:
    tokenizer = with_added("chaméléon", 363)
    assert 363 in tokenizer.encode("the chaméléon")
    assert tokenizer.decode(tokenizer.encode("the chaméléon")) == "the chaméléon"


def test_a_flagged_added_token_is_special_whatever_its_name() -> None:
    tokenizer = with_added("[MASK]", 363, special=True)
    assert 363 in tokenizer.special_ids
    assert 363 not in tokenizer.encode("[MASK]")


def test_an_added_token_without_the_flag_is_text_whatever_its_name() -> None:
    tokenizer = with_added("<div>", 363)
    assert tokenizer.encode("a<div>") == [tokenizer.token_ids["a"], 363]
    assert tokenizer.decode([363], skip_special_tokens=True) == "<div>"


def test_what_chameleon_needs_is_special_without_the_flag() -> None:
    data = json.loads(make_tokenizer().to_json())
    for token in data["added_tokens"]:
        token["special"] = False
    tokenizer = TextTokenizer(data)
    specials = {tokenizer.names[token_id] for token_id in tokenizer.special_ids}
    assert specials == {"<s>", "<pad>", "</s>", "<eoss>", "<racm3:break>", "<reserved08706>", "<image>"}


def test_specials_are_written_or_skipped(tokenizer: TextTokenizer) -> None:
    ids = [tokenizer.token_ids[name] for name in ("<s>", "IMGIMGAZ", "a", "</s>")]
    assert tokenizer.decode(ids) == "<s>IMGIMGAZa</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_the_post_processor_tells_what_goes_around_a_text(tokenizer: TextTokenizer) -> None:
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((tokenizer.token_ids["<s>"],), ())
    assert make_tokenizer(adds_bos=False).prefix_ids == ()
    template = json.loads(tokenizer.to_json())["post_processor"]
    template["single"].reverse()
    at_the_end = changed(post_processor=template)
    assert (at_the_end.prefix_ids, at_the_end.suffix_ids) == ((), (tokenizer.token_ids["<s>"],))


def test_a_file_that_prefixes_a_space_gives_the_text_back_without() -> None:
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    with pytest.warns(TokenizerWarning, match="no space is put before a text"):
        tokenizer = changed(pre_tokenizer=pre_tokenizer, truncation=None)
    assert tokenizer.decode(tokenizer.encode("the")) == "the"
    assert json.loads(tokenizer.to_json())["pre_tokenizer"]["add_prefix_space"] is True


def test_saving_and_reading_give_the_same_tokenizer(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json")
    assert json.loads(again.to_json()) == json.loads(tokenizer.to_json())
    assert again.token_ids == tokenizer.token_ids
    assert again.encode("the é <s>") == tokenizer.encode("the é <s>")


def test_a_tokenizer_travels_to_another_process(tokenizer: TextTokenizer) -> None:
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("the é <s>") == tokenizer.encode("the é <s>")


def test_half_a_surrogate_pair_is_an_error(tokenizer: TextTokenizer) -> None:
    with pytest.raises(EncodingError, match=r"character 1 .* surrogate"):
        tokenizer.encode("a\ud83d")


def test_a_byte_that_the_vocabulary_lacks_is_an_error() -> None:
    data = json.loads(make_tokenizer(words=()).to_json())
    del data["model"]["vocab"]["q"]
    tokenizer = TextTokenizer(data)
    assert tokenizer.decode(tokenizer.encode("plain")) == "plain"
    with pytest.raises(EncodingError, match="no letter for the bytes 0x71"):
        tokenizer.encode("quick")


def test_an_id_without_a_name_is_an_error(tokenizer: TextTokenizer) -> None:
    with pytest.raises(VocabularyError, match=r"id 9999 has no name"):
        tokenizer.decode([9999])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"model": ', "{}", '{"model": {"type": "WordLevel"}}'])
def test_a_file_that_is_no_tokenizer_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(FileFormatError, match=r"tokenizer\.json"):
        TextTokenizer.from_file(path)


@pytest.mark.parametrize(
    ("content", "message"), [("not json", "the tokenizer is not"), ("[1]", "the tokenizer holds a JSON list")]
)
def test_text_that_is_no_tokenizer_is_an_error(content: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        TextTokenizer.from_json(content)


def test_a_bpe_over_characters_is_refused() -> None:
    with pytest.raises(FileFormatError, match="BPE over characters"):
        changed(pre_tokenizer={"type": "Whitespace"})


def test_a_bpe_that_the_library_refuses_is_an_error() -> None:
    with pytest.raises(FileFormatError, match="is JSON but not a tokenizer"):
        changed(normalizer={"type": "NoSuchNormalizer"})


def test_a_broken_added_token_is_an_error() -> None:
    with pytest.raises(FileFormatError, match=r"added_tokens are not understood: .*content"):
        changed(added_tokens=[{"id": 3}])


def test_an_id_without_a_name_is_refused_with_its_position() -> None:
    with pytest.raises(VocabularyError, match=r"at position 2: id 99999 has no name in this vocabulary"):
        make_tokenizer().decode([30, 31, 99999])
