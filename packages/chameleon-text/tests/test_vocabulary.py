"""The vocabulary is a checked bijection, whatever the order of the ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from chameleon_text import Vocabulary, VocabularyError, picture_name
from chameleon_text.testing import vocabularies
from chameleon_text.vocabulary import REQUIRED_NAMES, code_of_name, special_names


def small(**changes: int | None) -> dict[str, int]:
    names = [*REQUIRED_NAMES, "<image>", "<", "a", picture_name(0), picture_name(1)]
    token_ids: dict[str, int | None] = {name: token_id for token_id, name in enumerate(names)}
    token_ids |= changes
    return {name: token_id for name, token_id in token_ids.items() if token_id is not None}


@pytest.mark.parametrize(("code", "name"), [(0, "IMGIMGAZ"), (257, "IMGIMGCFHZ"), (8191, "IMGIMGIBJBZ")])
def test_a_codes_name_spells_its_decimal_digits(code: int, name: str) -> None:
    assert picture_name(code) == name
    assert code_of_name(name) == code


@pytest.mark.parametrize("name", ["IMGIMGZ", "IMGIMGKZ", "IMGIMGA", "aIMGIMGAZ", "IMGIMGAZ ", "imgimgaz", ""])
def test_other_names_are_no_codes(name: str) -> None:
    assert code_of_name(name) is None


@given(vocabularies())
def test_codes_and_ids_are_a_bijection_for_any_order_of_ids(token_ids: dict[str, int]) -> None:
    vocabulary = Vocabulary.from_token_ids(token_ids)
    codes = list(range(vocabulary.num_codes))
    ids = vocabulary.codes_to_ids(codes)
    assert ids == [token_ids[picture_name(code)] for code in codes]
    assert vocabulary.ids_to_codes(ids) == codes
    assert sorted(np.flatnonzero(vocabulary.id_to_code >= 0)) == sorted(ids)
    assert len(vocabulary) == max(token_ids.values()) + 1


@given(vocabularies())
def test_every_id_is_text_or_special_or_a_pictures(token_ids: dict[str, int]) -> None:
    vocabulary = Vocabulary.from_token_ids(token_ids)
    kinds = [vocabulary.text_ids, vocabulary.special_ids, set(vocabulary.code_to_id.tolist())]
    assert sorted(token_id for kind in kinds for token_id in kind) == sorted(token_ids.values())
    assert token_ids["<"] in vocabulary.text_ids


def test_specials_are_taken_by_name() -> None:
    token_ids = small()
    vocabulary = Vocabulary.from_token_ids(token_ids)
    assert vocabulary.bos_id == token_ids["<s>"]
    assert vocabulary.eos_id == token_ids["</s>"]
    assert vocabulary.pad_id == token_ids["<pad>"]
    assert vocabulary.begin_image_id == token_ids["<racm3:break>"]
    assert vocabulary.end_image_id == token_ids["<eoss>"]
    assert vocabulary.separator_id == token_ids["<reserved08706>"]
    assert vocabulary.image_placeholder_id == token_ids["<image>"]


@pytest.mark.parametrize("name", ["</", "<=>", "<>", "<1", "<div>", "<unk>", "<sentinel:3>", "<reserved09000>"])
def test_a_name_that_begins_with_an_angle_bracket_is_special_unless_a_tokenizer_makes_it_text(name: str) -> None:
    assert special_names([name, "<", "a"]) == {name}
    assert special_names([name, "<", "a"], text={name}) == set()
    assert special_names([name, "<", "a"], text={name}, flagged={name}) == {name}


def test_what_chameleon_needs_is_special_and_a_picture_code_never_is() -> None:
    names = [*REQUIRED_NAMES, "<image>", "<reserved08707>"]
    assert special_names([*names, picture_name(3)], text={*names}, flagged={picture_name(3)}) == {*names}


def test_the_placeholder_may_have_its_published_name() -> None:
    assert Vocabulary.from_token_ids(small(**{"<image>": None, "<reserved08707>": 70})).image_placeholder_id == 70


def test_the_placeholder_may_have_a_custom_name() -> None:
    assert Vocabulary.from_token_ids(small(**{"[IMG]": 70}), image_token="[IMG]").image_placeholder_id == 70
    with pytest.raises(VocabularyError, match=r"lacks '\[IMG\]'"):
        Vocabulary.from_token_ids(small(), image_token="[IMG]")


def test_everything_that_is_missing_is_listed() -> None:
    token_ids = small(**{"<eoss>": None, "<image>": None, picture_name(0): None})
    with pytest.raises(VocabularyError, match=r"lacks '<eoss>', '<image>' .*'IMGIMGAZ' .code 0") as caught:
        Vocabulary.from_token_ids(token_ids)
    assert "'<s>'" not in str(caught.value)


def test_a_vocabulary_without_pictures_says_so() -> None:
    with pytest.raises(VocabularyError, match="names of the codes"):
        Vocabulary.from_token_ids(small(**{picture_name(0): None, picture_name(1): None}))


def test_many_missing_codes_are_counted() -> None:
    with pytest.raises(VocabularyError, match=r"\(code 9\), and 90 more codes"):
        Vocabulary.from_token_ids(small(**{picture_name(100): 999}))


def test_a_huge_code_costs_no_time() -> None:
    with pytest.raises(VocabularyError, match=r"\(code 9\), and 99999999999989 more codes"):
        Vocabulary.from_token_ids(small(IMGIMGJJJJJJJJJJJJJJZ=999))


def test_two_names_of_one_code_are_an_error() -> None:
    with pytest.raises(VocabularyError, match="both stand for code 1"):
        Vocabulary.from_token_ids(small(IMGIMGABZ=99))


def test_two_names_with_one_id_are_an_error() -> None:
    with pytest.raises(VocabularyError, match="both have the id 0"):
        Vocabulary.from_token_ids(small(other=0))


@pytest.mark.parametrize("token_id", [-1, 1.5, True, "7"])
def test_an_impossible_id_is_an_error(token_id: object) -> None:
    with pytest.raises(VocabularyError, match="expected an integer ≥ 0"):
        Vocabulary.from_token_ids(small() | {"other": token_id})  # type: ignore[dict-item]


@pytest.mark.parametrize("code", [-1, 2])
def test_a_code_out_of_range_is_an_error(code: int) -> None:
    with pytest.raises(VocabularyError, match=rf"code {code} at position 1 is out of range.*0 to 1"):
        Vocabulary.from_token_ids(small()).codes_to_ids([0, code])


@pytest.mark.parametrize("token_id", [0, -1, 10_000])
def test_an_id_that_is_no_pictures_has_no_code(token_id: int) -> None:
    with pytest.raises(VocabularyError, match=f"id {token_id} at position 0 is not a picture code's"):
        Vocabulary.from_token_ids(small()).ids_to_codes([token_id])


def test_a_vocabulary_cannot_be_changed_in_place() -> None:
    vocabulary = Vocabulary.from_token_ids(small())
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.code_to_id[0] = 3
