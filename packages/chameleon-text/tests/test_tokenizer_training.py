"""A tokenizer that is trained on texts gives every text back, and has the names that Chameleon needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import ConfigError, EncodingError, TextTokenizer, Vocabulary, train_tokenizer

TEXTS = [f"a {colour} {thing}" for colour in ("red", "green") for thing in ("apple", "house", "bird")] * 3
TOKENIZER = train_tokenizer(TEXTS, num_codes=12, text_size=270)


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=True) == text


def test_frequent_pieces_are_ids_of_their_own() -> None:
    assert len(TOKENIZER) == 4 + 12 + 4 + 270
    known, other = (len(TOKENIZER.encode(text)) for text in ("a green apple", "zqj xwvkq mnty"))
    assert known < 7 < 13 < other
    few = train_tokenizer(["ab ab", "cd"], num_codes=1, text_size=10_000)
    assert "ab" in few.token_ids, "it occurs twice"
    assert "cd" not in few.token_ids
    assert "cd" in train_tokenizer(["ab ab", "cd"], num_codes=1, min_frequency=1).token_ids


def test_codes_and_special_tokens_are_where_published_files_have_them(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_token_ids(TOKENIZER.token_ids, special_ids=TOKENIZER.special_ids)
    assert vocabulary.num_codes == 12
    assert [vocabulary.bos_id, vocabulary.pad_id, vocabulary.eos_id] == [0, 1, 2]
    assert vocabulary.codes_to_ids([0, 11]) == [4, 15]
    assert TOKENIZER.prefix_ids == (vocabulary.bos_id,)
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert TextTokenizer.from_file(tmp_path / "tokenizer.json").token_ids == TOKENIZER.token_ids
    assert train_tokenizer(iter(TEXTS), num_codes=12, text_size=270).to_json() == TOKENIZER.to_json()


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (TEXTS, {"num_codes": 0}, ConfigError, "num_codes must be an integer ≥ 1; got 0"),
        (TEXTS, {"text_size": 255}, ConfigError, "text_size must be an integer ≥ 256; got 255"),
        (TEXTS, {"min_frequency": 1.5}, ConfigError, "min_frequency must be an integer ≥ 1; got 1.5"),
        ("a text", {}, ConfigError, "got one str"),
        (["a", None], {}, EncodingError, "text 2 is a NoneType"),
        (["\ud800"], {}, EncodingError, "text 1 has half of a surrogate pair"),
    ],
)
def test_impossible_arguments_are_refused(texts: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train_tokenizer(texts, **{"num_codes": 4, **options})
