"""What a ``tokenizer.json`` says is done as the ``tokenizers`` library does it, warned of, or refused."""

from __future__ import annotations

import copy
import functools
import json
import math
import pickle
import time
import warnings
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import (
    ChameleonProcessor,
    ChameleonTextError,
    ConfigError,
    EncodingError,
    FileFormatError,
    ReadOnlyError,
    TextTokenizer,
    TokenizerWarning,
    Vocabulary,
    VocabularyError,
)
from chameleon_text.testing import make_tokenizer
from chameleon_text.testing.strategies import HOSTILE

BASE: dict[str, Any] = json.loads(make_tokenizer().to_json())
SIZE = len(BASE["model"]["vocab"])
LEVEL = BASE["pre_tokenizer"]["pretokenizers"][-1]
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
NORMALIZERS: tuple[Any, ...] = (
    None,
    {"type": "Lowercase"},
    {"type": "NFKC"},
    {"type": "Sequence", "normalizers": [{"type": "StripAccents"}, {"type": "Lowercase"}]},
    {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
)


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    place: Any = data
    *steps, last = path.split(".")
    for step in steps:
        place = place[step]
    place[last] = value
    return data


def word(content: str, token_id: int = SIZE, **flags: bool) -> dict[str, Any]:
    return {"id": token_id, "content": content} | dict.fromkeys((*FLAGS, "special"), False) | flags


def with_words(*words: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**changed("added_tokens", [*BASE["added_tokens"], *words]), **changes}


def quietly(data: dict[str, Any]) -> TextTokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenizerWarning)
        return TextTokenizer(data)


@functools.cache
def of_both(flags: str, normalizer: int) -> tuple[TextTokenizer, tokenizers.Tokenizer]:
    """Return the tokenizer of a file with three added words, here and in the library."""
    parts = flags.split(",")
    contents = ("cat", "a cat", "Éa")
    words = [
        word(content, SIZE + index, **{flag: True for flag in part.split("+") if flag})
        for index, (content, part) in enumerate(zip(contents, parts, strict=True))
    ]
    data = with_words(*words, normalizer=NORMALIZERS[normalizer])
    peer = tokenizers.Tokenizer.from_str(json.dumps(data))
    return quietly(data), peer


flag_sets = st.lists(st.sets(st.sampled_from(FLAGS)).map(lambda each: "+".join(sorted(each))), min_size=3, max_size=3)
pieces = st.sampled_from(["cat", "Cat", "a cat", "Éa", "é", " ", "  ", "\n", "the", "log", "_", "1", "\u00a0", "."])
plain_texts = st.lists(pieces | st.text(st.characters(codec="utf-8"), max_size=3), max_size=12).map("".join)


@given(flag_sets.map(",".join), st.integers(0, len(NORMALIZERS) - 1), plain_texts)
def test_added_words_get_the_ids_of_the_library_whatever_their_flags(flags: str, normalizer: int, text: str) -> None:
    ours, peer = of_both(flags, normalizer)
    expected = peer.encode(text, add_special_tokens=False).ids
    if ours.reserved_ids.isdisjoint(expected):
        assert ours.encode(text) == expected
    if not ours.losses:
        assert ours.decode(ours.encode(text)) == text


@given(flag_sets.map(",".join), st.integers(0, len(NORMALIZERS) - 1), st.sampled_from(HOSTILE), plain_texts)
def test_what_spells_a_special_stays_text_beside_added_words(flags: str, normalizer: int, name: str, text: str) -> None:
    ours, _ = of_both(flags, normalizer)
    assert ours.reserved_ids.isdisjoint(ours.encode(f"{text}{name}{text}"))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_matches_no_special_token_either(copied: Any) -> None:
    tokenizer = quietly(with_words(word("cat", lstrip=True)))
    again = copied(tokenizer)
    assert again.encode("</s> the cat IMGIMGBZ") == tokenizer.encode("</s> the cat IMGIMGBZ")
    assert again.losses == tokenizer.losses


@pytest.mark.parametrize("flag", ["lstrip", "rstrip"])
def test_an_added_word_that_takes_spaces_along_is_warned_of(flag: str) -> None:
    with pytest.warns(TokenizerWarning, match=r"texts don't come back .*spaces beside 'cat' are lost"):
        tokenizer = TextTokenizer(with_words(word("cat", **{flag: True})))
    assert len(tokenizer.losses) == 1
    assert tokenizer.decode(tokenizer.encode("a cat b")) == ("acat b" if flag == "lstrip" else "a catb")


def test_an_added_word_with_the_id_of_a_byte_is_warned_of() -> None:
    letter = BASE["model"]["vocab"]["\N{LATIN SMALL LETTER E WITH ACUTE}"]
    with pytest.warns(TokenizerWarning, match="'é' are added tokens with the id of a byte-level word"):
        TextTokenizer(with_words(word("\N{LATIN SMALL LETTER E WITH ACUTE}", letter)))


def test_a_special_token_that_takes_spaces_along_loses_nothing() -> None:
    tokenizer = TextTokenizer(with_words(word("[MASK]", lstrip=True, special=True)))
    assert tokenizer.losses == ()
    assert tokenizer.decode(tokenizer.encode("a [MASK] b")) == "a [MASK] b"


@pytest.mark.parametrize(
    ("normalizer", "text", "back"),
    [
        ({"type": "Lowercase"}, "The", "the"),
        ({"type": "NFKC"}, "ﬁ", "fi"),
        ({"type": "NFD"}, "é", "e\u0301"),
        ({"type": "Strip", "strip_left": True, "strip_right": True}, " a ", "a"),
        ({"type": "Prepend", "prepend": "_"}, "a", "_a"),
        ({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "The", "the"),
    ],
)
def test_a_normalizer_is_done_and_warned_of(normalizer: Any, text: str, back: str) -> None:
    with pytest.warns(TokenizerWarning, match="its normalizer .* changes texts"):
        tokenizer = TextTokenizer(changed("normalizer", normalizer))
    assert tokenizer.decode(tokenizer.encode(text)) == back


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Split", "pattern": {"Regex": "[^ ]+"}, "behavior": "Removed", "invert": True},
        {"type": "Punctuation", "behavior": "Removed"},
        {"type": "WhitespaceSplit"},
        {"type": "Whitespace"},
        {"type": "BertPreTokenizer"},
        {"type": "UnicodeScripts"},
        {"type": "CharDelimiterSplit", "delimiter": " "},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}]},
    ],
)
def test_a_step_that_drops_text_is_refused(step: Any) -> None:
    with pytest.raises(FileFormatError, match="drops or replaces parts of a text"):
        TextTokenizer(changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [step, LEVEL]}))


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "Digits", "individual_digits": False},
    ],
)
@given(plain_texts)
def test_a_step_that_keeps_text_is_done(step: Any, text: str) -> None:
    tokenizer = keeping(json.dumps(step))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@functools.cache
def keeping(step: str) -> TextTokenizer:
    return TextTokenizer(changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [json.loads(step), LEVEL]}))


@pytest.mark.parametrize("field", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_marks_of_words_are_refused(field: str) -> None:
    with pytest.raises(FileFormatError, match=f"{field} is '##'"):
        TextTokenizer(changed(f"model.{field}", "##"))
    assert TextTokenizer(changed(f"model.{field}", "")).encode("the") == make_tokenizer().encode("the")


@pytest.mark.parametrize("path", ["pre_tokenizer", "normalizer"])
def test_bytes_written_as_letters_twice_are_refused(path: str) -> None:
    value = {"type": "Sequence", "pretokenizers": [LEVEL, LEVEL]} if path == "pre_tokenizer" else {"type": "ByteLevel"}
    with pytest.raises(FileFormatError, match="as letters twice"):
        TextTokenizer(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.dropout", 0.5, "drops no merges"),
        (
            "truncation",
            {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "texts are never cut",
        ),
        (
            "padding",
            {
                "strategy": {"Fixed": 2**60},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            },
            "texts aren't padded",
        ),
        ("pre_tokenizer", {**LEVEL, "add_prefix_space": True}, "no space is put before a text"),
        ("decoder", {"type": "Fuse"}, r"not by the file's decoder \(Fuse\)"),
    ],
)
def test_what_the_file_asks_for_and_is_left_out_is_said(path: str, value: Any, said: str) -> None:
    data = changed(path, value)
    with pytest.warns(TokenizerWarning, match=said):
        tokenizer = TextTokenizer(data)
    assert tokenizer.losses == ()
    assert [tokenizer.encode("the red apple") for _ in range(20)] == [make_tokenizer().encode("the red apple")] * 20
    assert json.loads(tokenizer.to_json()) == data


def test_what_changes_nothing_is_accepted_in_silence() -> None:
    for path, value in (("model.unk_token", "<unk>"), ("model.byte_fallback", True), ("model.fuse_unk", True)):
        tokenizer = TextTokenizer(changed(path, value))
        assert tokenizer.decode(tokenizer.encode("the é 🦎")) == "the é 🦎"


def test_a_letter_that_is_missing_after_the_normalizer_is_an_error() -> None:
    data = {**BASE, "normalizer": {"type": "Lowercase"}, "model": {**BASE["model"], "merges": []}}
    data["model"]["vocab"] = {name: each for name, each in BASE["model"]["vocab"].items() if name != "q"}
    with pytest.raises(EncodingError, match="no letter for the bytes 0x71"):
        quietly(data).encode("Q")


@pytest.mark.parametrize(
    "words",
    [
        [word("cat", SIZE + 50)],
        [word("the", 3)],
        [word("cat", SIZE), word("cat", SIZE + 1)],
        [word("")],
    ],
)
def test_an_id_that_the_library_would_not_give_is_an_error(words: list[dict[str, Any]]) -> None:
    with pytest.raises(FileFormatError, match=r"says that the added token .* has the id"):
        TextTokenizer(with_words(*words))


def test_an_id_of_two_names_is_an_error() -> None:
    vocab = {**BASE["model"]["vocab"], "twin": 5}
    with pytest.raises(VocabularyError, match="both have the id 5"):
        TextTokenizer(changed("model.vocab", vocab))


deep: Any = LEVEL
for _ in range(300):
    deep = {"type": "Sequence", "pretokenizers": [deep]}
circle: dict[str, Any] = {}
circle["circle"] = circle


@pytest.mark.parametrize(
    "data",
    [
        changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": None}),
        changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        changed("normalizer", {"type": "Sequence", "normalizers": None}),
        changed("post_processor.special_tokens", {}),
        changed("post_processor.special_tokens", {"<s>": {"id": "<s>", "ids": [99999], "tokens": ["<s>"]}}),
        changed("post_processor", {"type": "BertProcessing", "sep": ["</s>", 10**6], "cls": ["<s>", 0]}),
        changed("pre_tokenizer", deep),
        changed("pre_tokenizer.pretokenizers", None),
        changed("pre_tokenizer.pretokenizers", {"a": LEVEL}),
        changed("pre_tokenizer", {**LEVEL, "type": ["ByteLevel"]}),
        changed("model.vocab", None),
        changed("model.vocab", {**BASE["model"]["vocab"], "x": -1}),
        changed("model.vocab", {**BASE["model"]["vocab"], "x": 2**40}),
        changed("model.vocab", {**BASE["model"]["vocab"], "x": 2**32 - 1}),
        changed("model.vocab", {**BASE["model"]["vocab"], "x": 1.5}),
        changed("model.vocab", {**BASE["model"]["vocab"], "\ud800": SIZE}),
        changed("model.merges", None),
        changed("model.merges", [["a"]]),
        changed("model.merges", ["a b c"]),
        changed("model.merges", [["a", 3]]),
        changed("model.merges", [["zz", "yy"]]),
        changed("model.dropout", "much"),
        changed("model.unk_token", 3),
        changed("model.type", ["BPE"]),
        changed("model.type", "x" * 10_000),
        changed("model", None),
        changed("added_tokens", None) | {"added_tokens": 3},
        changed("added_tokens", [3]),
        changed("added_tokens", {"a": 1}),
        with_words(word("zz", 2**40)),
        with_words(word("zz", 2**32 - 1)),
        with_words(word("zz", -1)),
        with_words(word("\ud800")),
        with_words({**word("zz"), "lstrip": "yes"}),
        with_words({**word("zz"), "content": None}),
        changed("version", "\udfff"),
        changed("version", math.nan),
        changed("version", 10**5000),
        changed("version", object()),
        changed("version", circle),
    ],
)
def test_a_broken_file_raises_this_package_s_errors(data: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChameleonTextError):
        ChameleonProcessor(TextTokenizer(data))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 500 + "1" + "}" * 500,
        '{"model": {"type": "BPE", "vocab": {"a": ' + "9" * 5000 + "}}}",
        '{"model": NaN}',
        '{"model": -Infinity}',
        '"\\ud800"',
        '{"model": "\ud800"}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf",
        "",
        "\ufeff[]",
        None,
        3,
        {},
    ],
)
def test_what_is_no_json_raises_this_package_s_error(text: Any) -> None:
    with pytest.raises(FileFormatError, match="the tokenizer"):
        TextTokenizer.from_json(text)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_raises_this_package_s_error(data: Any) -> None:
    with pytest.raises(FileFormatError, match="expected a JSON object"):
        TextTokenizer(data)


def test_a_byte_order_mark_is_skipped(tmp_path: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xef\xbb\xbf" + make_tokenizer().to_json().encode())
    assert TextTokenizer.from_file(path).encode("the") == make_tokenizer().encode("the")


def test_an_interruption_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        @staticmethod
        def from_str(text: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizers, "Tokenizer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        TextTokenizer(BASE)


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"]])
def test_only_a_str_is_encoded(text: Any) -> None:
    with pytest.raises(ConfigError, match="a text must be a str"):
        make_tokenizer().encode(text)


@pytest.mark.parametrize("ids", [[1.0], [True], ["1"], [None], "12", b"12", {1: 2}, {1}, None, [math.nan]])
def test_only_a_row_of_integers_is_decoded(ids: Any) -> None:
    with pytest.raises(ConfigError, match=r"of ids|integer ids"):
        make_tokenizer().decode(ids)
    with pytest.raises(ConfigError):
        ChameleonProcessor(make_tokenizer()).decode_document(ids)


@pytest.mark.parametrize("token_id", [-1, SIZE, 10**30])
def test_an_id_outside_the_vocabulary_is_an_error(token_id: int) -> None:
    tokenizer = make_tokenizer()
    for decode in (tokenizer.decode, ChameleonProcessor(tokenizer).decode_document):
        with pytest.raises(VocabularyError, match="has no name"):
            decode([1, token_id])
    with pytest.raises(VocabularyError, match="has no name"):
        tokenizer.stream_decoder().push(token_id)
    with pytest.raises(ConfigError):
        tokenizer.stream_decoder().push(1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [3, [[1]]])
def test_a_document_is_one_row_of_ids(ids: Any) -> None:
    with pytest.raises(ConfigError, match=r"of ids|integer ids"):
        ChameleonProcessor(make_tokenizer()).decode_document(ids)


@pytest.mark.parametrize("name", ["vocab", "special_ids", "tokens_ids"])
def test_nothing_is_assigned_that_would_do_nothing(name: str) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(ReadOnlyError, match=name):
        setattr(tokenizer, name, "<eoss>")
    with pytest.raises(ReadOnlyError, match="can't be deleted"):
        del tokenizer.names


def test_a_name_of_a_code_with_thousands_of_digits_is_none_at_no_cost() -> None:
    vocab = {**BASE["model"]["vocab"], f"IMGIMG{'J' * 5000}Z": SIZE}
    tokenizer = TextTokenizer(changed("model.vocab", vocab))
    assert Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids).num_codes == 64


@pytest.mark.parametrize("kind", ["words", "specials", "codes", "merges"])
def test_time_is_linear_in_the_names_of_a_file(kind: str) -> None:
    def seconds(count: int) -> float:
        data = copy.deepcopy(BASE)
        if kind == "codes":
            data["model"]["vocab"] |= {f"IMGIMG{_letters(64 + each)}Z": SIZE + each for each in range(count)}
        elif kind == "merges":
            data["model"]["merges"] += [["a", "b"]] * count
            data["model"]["vocab"]["ab"] = SIZE
        else:
            data["added_tokens"] += [
                word(f"<w{each}>", SIZE + each, special=kind == "specials") for each in range(count)
            ]
        start = time.process_time()
        ChameleonProcessor(TextTokenizer(data)).encode("the <w3> IMGIMGBZ ab")
        return time.process_time() - start

    seconds(100)
    assert min(seconds(24_000) for _ in range(2)) < 12 * min(seconds(6_000) for _ in range(2)) + 0.2


def _letters(code: int) -> str:
    return str(code).translate(str.maketrans("0123456789", "ABCDEFGHIJ"))
