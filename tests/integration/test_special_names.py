"""Which names are special: one rule, whether the names come alone, from a tokenizer file or from a model's config."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chameleon_core import Chameleon
from chameleon_core.layout import TokenLayout
from chameleon_core.testing import TINY_VQ_CONFIG, make_config, make_model
from chameleon_text import ChameleonProcessor, TextTokenizer, Vocabulary
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer

NEEDED = ("<s>", "</s>", "<pad>", "<racm3:break>", "<eoss>", "<reserved08706>", "<image>", "<reserved08707>")
SPECIAL_BY_NAME = (*NEEDED, "<unk>", "<sentinel:3>", "<reserved09000>", "</", "<=>", "<>", "<1", "<div>", "<<")
TEXT_BY_NAME = ("<", ">", "a", "a<", " </", "[MASK]", "IMGIMGZ", "IMGIMGKZ", f"IMGIMG{'J' * 19}Z")
LONG = f"IMGIMG{'J' * 5000}Z"
"""Of more digits than Python turns into a number."""
PICTURES = ("IMGIMGAZ", "IMGIMGBZ", "IMGIMGBBZ")

NAMES = st.sampled_from([*SPECIAL_BY_NAME, *TEXT_BY_NAME, *PICTURES]) | st.text("<>/=1ab", min_size=1, max_size=5)
HOW = st.sampled_from(["plain", "flagged", "unflagged", "merged"])
"""How a tokenizer file has a name: as a bare entry, as an added token with or without the flag, or by its merges."""


def tokenizer_with(names: Mapping[str, str]) -> TextTokenizer:
    """A small tokenizer whose file has further names, each in its own way."""
    merged = [name for name, how in names.items() if how == "merged"]
    data = json.loads(make_tokenizer(16, words=merged, adds_bos=False).to_json())
    vocab = data["model"]["vocab"]
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in names]
    for name, how in names.items():
        vocab.setdefault(name, len(vocab))
        if how in ("flagged", "unflagged"):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            token = {"id": vocab[name], "content": name, "special": how == "flagged", **flags}
            data["added_tokens"].append(token)
    data["added_tokens"].sort(key=lambda token: token["id"])
    return TextTokenizer(data)


def layout_of(token_ids: Mapping[str, int], special_ids: frozenset[int] | None = None) -> TokenLayout:
    return TokenLayout.from_vocabulary_map(token_ids, 4, special_ids=special_ids)


def text_ids(layout: TokenLayout) -> set[int]:
    return set(layout.text_allowed_V.nonzero().flatten().tolist())


@pytest.mark.parametrize("name", [*SPECIAL_BY_NAME, *TEXT_BY_NAME, *PICTURES, LONG])
def test_names_alone_are_judged_by_the_rule_of_metas_release(name: str) -> None:
    token_ids = dict(make_tokenizer(16).token_ids)
    token_id = token_ids.setdefault(name, len(token_ids))
    vocabulary = Vocabulary.from_token_ids(token_ids)
    layout = TokenLayout.from_config(make_config(vocab_size=len(token_ids), vocabulary_map=token_ids))
    assert (token_id in vocabulary.special_ids) == (token_id in layout.special_ids) == (name in SPECIAL_BY_NAME)
    assert (token_id in vocabulary.text_ids) == (token_id in text_ids(layout)) == (name in (*TEXT_BY_NAME, LONG))


@given(st.sets(NAMES, max_size=8))
def test_a_config_and_the_names_alone_agree(names: set[str]) -> None:
    token_ids = dict(make_tokenizer(16).token_ids)
    for name in sorted(names):
        token_ids.setdefault(name, len(token_ids))
    vocabulary, layout = Vocabulary.from_token_ids(token_ids), layout_of(token_ids)
    assert vocabulary.special_ids == layout.special_ids
    assert vocabulary.text_ids == text_ids(layout)


@given(st.dictionaries(NAMES, HOW, max_size=6))
def test_a_tokenizer_files_flags_and_merges_decide_for_both_packages(names: dict[str, str]) -> None:
    tokenizer = tokenizer_with(names)
    vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
    layout = layout_of(tokenizer.token_ids, tokenizer.special_ids)
    assert vocabulary.special_ids == layout.special_ids == tokenizer.special_ids
    assert vocabulary.text_ids == text_ids(layout)
    for name, how in names.items():
        if len(name.encode()) == 1 and how in ("plain", "merged"):
            expected = False  # a letter, which every text may need
        elif name in PICTURES:
            expected = False
        elif name in NEEDED or how == "flagged":
            expected = True
        else:
            expected = how == "plain" and name.startswith("<") and not _merged_on_the_way(name, names)
        assert (tokenizer.token_ids[name] in tokenizer.special_ids) == expected, (name, how)


def _merged_on_the_way(name: str, names: Mapping[str, str]) -> bool:
    """Whether the merges that build another name build this one first."""
    return any(how == "merged" and other.startswith(name) for other, how in names.items())


@given(st.dictionaries(NAMES, HOW, max_size=6), st.text("<>/=1ab", max_size=12))
def test_every_text_may_be_generated_and_no_special_may(names: dict[str, str], text: str) -> None:
    tokenizer = tokenizer_with({name: how for name, how in names.items() if name != "<" and len(name) > 1})
    layout = layout_of(tokenizer.token_ids, tokenizer.special_ids)
    assert set(tokenizer.encode(text)) <= text_ids(layout)


def test_the_pipeline_generates_what_its_tokenizer_calls_text_and_nothing_else() -> None:
    tokenizer = tokenizer_with({"<div>": "merged", "<b>": "unflagged", "[MASK]": "flagged", "<i>": "plain"})
    image_tokenizer = FakeImageTokenizer(16)
    config = make_config(vocab_size=len(tokenizer), vocabulary_map=tokenizer.token_ids, vq_config=TINY_VQ_CONFIG)
    model = make_model(config)
    ids = tokenizer.token_ids
    assert {ids["<div>"], ids["<b>"], ids["<i>"]} <= model.layout.special_ids
    processor = ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer)
    chameleon = Chameleon(model, processor)
    assert text_ids(chameleon.layout) == text_ids(model.layout) == processor.vocabulary.text_ids
    prompt = torch.tensor([[ids["<s>"], ids["a"]]])
    for name, written in (("<div>", True), ("<b>", True), ("<i>", False), ("[MASK]", False)):
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.lm_head.weight[ids[name]] = model.model(prompt).last_hidden_state[0, -1]
        document = chameleon.generate("a", max_new_tokens=1)
        assert (name in "".join(getattr(segment, "text", "") for segment in document)) == written
    model.resize_token_embeddings(len(tokenizer) + 8)
    assert text_ids(model.layout) == processor.vocabulary.text_ids
