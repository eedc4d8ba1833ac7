"""TokenLayout: ids by their names, in any order, and vocabularies that can't be used."""

from __future__ import annotations

import random

import pytest
import torch

from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import ConfigError, VocabularyError
from chameleon_core.layout import TokenLayout, tokens_per_image

SPECIALS = ["<s>", "<pad>", "</s>", "<racm3:break>", "<eoss>", "<reserved08706>", "<image>"]
TEXT = ["a", "b", "<", ">", "a<b", "[MASK]", "IMGIMG", "IMGIMGZ", "IMGIMGKZ"]
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def picture_name(code: int) -> str:
    return f"IMGIMG{str(code).translate(LETTERS)}Z"


def vocabulary(num_codes: int = 12, *, seed: int | None = None) -> dict[str, int]:
    """A small vocabulary, its ids in order or shuffled."""
    names = [*SPECIALS, *(picture_name(code) for code in range(num_codes)), *TEXT]
    if seed is not None:
        random.Random(seed).shuffle(names)
    return {name: id_ for id_, name in enumerate(names)}


def test_the_letters_of_a_picture_name_are_decimal_digits() -> None:
    names = vocabulary(300)
    assert "IMGIMGCFHZ" in names
    assert TokenLayout.from_vocabulary_map(names, 4).code_to_id_Z[257] == names["IMGIMGCFHZ"]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_codes_and_ids_are_a_bijection_whatever_the_order_of_the_ids(seed: int | None) -> None:
    names = vocabulary(seed=seed)
    layout = TokenLayout.from_vocabulary_map(names, 4)
    assert layout.num_codes == 12
    assert layout.code_to_id_Z.tolist() == [names[picture_name(code)] for code in range(12)]
    assert layout.id_to_code_V[layout.code_to_id_Z].tolist() == list(range(12))
    assert int((layout.id_to_code_V >= 0).sum()) == 12
    assert layout.codes_by_id == {names[picture_name(code)]: code for code in range(12)}
    assert layout.picture_ids == set(layout.code_to_id_Z.tolist())


@pytest.mark.parametrize("seed", [None, 0])
def test_specials_are_found_by_name(seed: int | None) -> None:
    names = vocabulary(seed=seed)
    layout = TokenLayout.from_vocabulary_map(names, 4)
    found = [layout.bos_id, layout.pad_id, layout.eos_id, layout.begin_image_id, layout.end_image_id]
    assert [*found, layout.separator_id, layout.placeholder_id] == [names[name] for name in SPECIALS]
    assert layout.special_ids == {names[name] for name in SPECIALS}


def test_only_names_of_plain_text_may_be_generated_as_text() -> None:
    names = vocabulary(seed=3)
    layout = TokenLayout.from_vocabulary_map(names, 4, vocab_size=64)
    assert layout.text_ids == set(layout.text_allowed_V.nonzero().flatten().tolist()) == {names[name] for name in TEXT}
    assert layout.vocab_size == 64
    assert layout.text_allowed_V.nonzero().flatten().tolist() == sorted(names[name] for name in TEXT)


@pytest.mark.parametrize("name", ["</", "<>", "<=>", "<1", "<div>", "<unk>", "<sentinel:3>", "<reserved09000>"])
def test_a_name_that_begins_with_an_angle_bracket_is_text_only_by_the_tokenizers_verdict(name: str) -> None:
    names = vocabulary()
    specials = {names[special] for special in SPECIALS}
    names[name] = len(names)
    by_name = TokenLayout.from_vocabulary_map(names, 4)
    assert names[name] in by_name.special_ids
    assert not by_name.text_allowed_V[names[name]]
    by_tokenizer = TokenLayout.from_vocabulary_map(names, 4, special_ids=specials)
    assert by_tokenizer.special_ids == specials
    assert by_tokenizer.text_allowed_V[names[name]]


def test_a_tokenizer_may_call_any_name_special_but_never_a_picture_code() -> None:
    names = vocabulary()
    layout = TokenLayout.from_vocabulary_map(names, 4, special_ids=[names["[MASK]"], names[picture_name(3)]])
    assert layout.special_ids == {names[name] for name in [*SPECIALS, "[MASK]"]}
    assert not layout.text_allowed_V[names["[MASK]"]]
    assert layout.num_codes == 12


def test_a_layout_is_shown_in_a_line() -> None:
    expected = "TokenLayout(28 ids: 12 picture codes (4 to a picture), 9 text, 7 special)"
    assert repr(TokenLayout.from_vocabulary_map(vocabulary(), 4)) == expected


def test_the_placeholder_may_have_metas_name() -> None:
    names = vocabulary()
    names["<reserved08707>"] = names.pop("<image>")
    assert TokenLayout.from_vocabulary_map(names, 4).placeholder_id == names["<reserved08707>"]


def test_the_placeholder_may_have_both_names() -> None:
    names = vocabulary()
    names["<reserved08707>"] = names["<image>"]
    assert TokenLayout.from_vocabulary_map(names, 4).placeholder_id == names["<image>"]


def test_the_old_name_of_the_ids_of_codes_still_works_with_a_warning() -> None:
    layout = TokenLayout.from_vocabulary_map(vocabulary(), 4)
    with pytest.warns(DeprecationWarning, match="now called code_to_id_Z"):
        assert layout.code_to_id_N is layout.code_to_id_Z


def test_moving_a_layout_moves_its_tensors() -> None:
    moved = TokenLayout.from_vocabulary_map(vocabulary(), 4).to("meta")
    assert {moved.code_to_id_Z.device, moved.id_to_code_V.device, moved.text_allowed_V.device} == {torch.device("meta")}
    assert moved.num_codes == 12


def test_a_config_gives_its_layout() -> None:
    vq_config = {"resolution": 32, "channel_multiplier": [1, 2, 2]}
    config = ChameleonConfig(vocab_size=50, vocabulary_map=vocabulary(), vq_config=vq_config)
    layout = TokenLayout.from_config(config)
    assert (layout.tokens_per_image, layout.vocab_size) == (64, 50)


@pytest.mark.parametrize(
    ("vq_config", "expected"),
    [
        (None, 1024),
        ({}, 1024),
        ({"resolution": 256}, 256),
        ({"resolution": 64, "ch_mult": [1, 2]}, 1024),
        ({"resolution": 64, "channel_multiplier": [1, 2], "codes_per_position": 3}, 3072),
    ],
)
def test_tokens_of_a_picture(vq_config: dict[str, object] | None, expected: int) -> None:
    assert tokens_per_image(vq_config) == expected


@pytest.mark.parametrize("vq_config", [{"resolution": 100}, {"resolution": "512"}, {"channel_multiplier": []}])
def test_impossible_picture_sizes_are_refused(vq_config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"vq_config\.(resolution|channel_multiplier)"):
        tokens_per_image(vq_config)


def test_every_missing_special_is_listed() -> None:
    names = {name: id_ for name, id_ in vocabulary().items() if name not in ("<s>", "<eoss>", "<image>")}
    with pytest.raises(VocabularyError, match="lacks the special tokens <s>, <eoss>, <image>"):
        TokenLayout.from_vocabulary_map(names, 4)


def test_a_gap_in_the_codes_is_refused() -> None:
    names = {name: id_ for name, id_ in vocabulary().items() if name != picture_name(5)}
    with pytest.raises(VocabularyError, match="the highest, 11, without a gap; no name stands for 5"):
        TokenLayout.from_vocabulary_map(names, 4)


def test_a_huge_code_costs_no_time() -> None:
    names = {**vocabulary(), "IMGIMGJJJJJJJJJJJJJJZ": 40}
    with pytest.raises(VocabularyError, match=r"no name stands for 12, 13, .*, …"):
        TokenLayout.from_vocabulary_map(names, 4)


def test_two_names_of_one_code_are_refused() -> None:
    with pytest.raises(VocabularyError, match="'IMGIMGCZ' and 'IMGIMGACZ' both stand for the picture code 2"):
        TokenLayout.from_vocabulary_map({**vocabulary(), "IMGIMGACZ": 40}, 4)


def test_two_names_of_one_id_are_refused() -> None:
    with pytest.raises(VocabularyError, match="'<s>' and 'c' have the same id, 0"):
        TokenLayout.from_vocabulary_map({**vocabulary(), "c": 0}, 4)


def test_a_vocabulary_without_pictures_is_refused() -> None:
    names = {name: id_ for name, id_ in vocabulary().items() if name in SPECIALS}
    with pytest.raises(VocabularyError, match="no picture codes"):
        TokenLayout.from_vocabulary_map(names, 4)


def test_an_id_past_the_vocabulary_is_refused() -> None:
    with pytest.raises(VocabularyError, match="must be from 0 to 9"):
        TokenLayout.from_vocabulary_map(vocabulary(), 4, vocab_size=10)


def test_a_picture_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="tokens_per_image must be at least 1; got 0"):
        TokenLayout.from_vocabulary_map(vocabulary(), 0)


def test_a_config_without_a_vocabulary_says_where_to_take_one() -> None:
    with pytest.raises(VocabularyError, match=r"no vocabulary_map.*tokenizer\.json"):
        TokenLayout.from_config(ChameleonConfig())
