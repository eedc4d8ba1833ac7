"""The states of a row: text; begin-image; the codes of a picture; end-image; text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chameleon_core.errors import ContextLengthError, GenerationError
from chameleon_core.generation import GenerationOptions
from chameleon_core.generation.rows import Row, start_row
from chameleon_core.layout import TokenLayout
from chameleon_core.testing import make_config

LAYOUT = TokenLayout.from_config(make_config())
BEGIN, END, EOS, PLACEHOLDER = LAYOUT.begin_image_id, LAYOUT.end_image_id, LAYOUT.eos_id, LAYOUT.placeholder_id
CODES = LAYOUT.code_to_id_Z.tolist()
WORD = 40
CONTEXT = 32


def start(prompt: Sequence[int] = (WORD,), *, layout: TokenLayout | None = LAYOUT, **changes: Any) -> Row:
    options = GenerationOptions(**{"modality": "interleaved", **changes})
    stop_ids = frozenset((EOS, *options.stop_ids))
    return start_row(3, prompt, options, layout=layout, context_length=CONTEXT, stop_ids=stop_ids)


def accept(row: Row, *ids: int) -> Row:
    for token_id in ids:
        assert row.finish_reason is None
        row.accept(token_id)
    return row


def codes_left(row: Row) -> int | None:
    return None if row.picture is None else row.picture.codes_left


def test_a_picture_has_four_codes_here() -> None:
    assert LAYOUT.tokens_per_image == 4


def test_text_goes_on_until_begin_image_then_codes_then_end_image_then_text() -> None:
    row = start()
    assert (row.wants_code, row.forced_id, row.may_begin(BEGIN)) == (False, None, True)
    accept(row, WORD)
    assert (row.wants_code, row.forced_id) == (False, None)
    accept(row, BEGIN)
    for code in range(4):
        assert (row.wants_code, row.forced_id) == (True, None)
        accept(row, CODES[code])
    assert (row.wants_code, row.forced_id) == (False, END)
    accept(row, END)
    assert (row.wants_code, row.forced_id, row.images_begun) == (False, None, 1)
    accept(row, WORD, EOS)
    assert row.finish_reason == "stop"
    assert row.ids == [WORD, WORD, BEGIN, *CODES[:4], END, WORD, EOS]


def test_a_picture_alone_is_begun_and_ended_for_the_model() -> None:
    row = start(modality="image")
    assert row.limit == 6
    assert row.forced_id == BEGIN
    accept(row, BEGIN, *CODES[:4])
    assert row.forced_id == END
    assert accept(row, END).finish_reason == "stop"


def test_text_alone_never_begins_a_picture() -> None:
    row = start(modality="text")
    assert not row.may_begin(BEGIN)
    assert row.forced_id is None


@pytest.mark.parametrize("modality", ["image", "interleaved"])
def test_a_prompt_that_ends_with_begin_image_goes_on_inside_the_picture(modality: str) -> None:
    row = start([WORD, BEGIN], modality=modality, max_new_tokens=None if modality == "image" else 10)
    assert row.wants_code
    accept(row, *CODES[:4])
    assert row.forced_id == END


@pytest.mark.parametrize("given", [1, 3, 4])
def test_a_prompt_that_ends_inside_a_picture_goes_on_with_what_is_missing(given: int) -> None:
    row = start([WORD, BEGIN, *CODES[:given]], modality="image")
    assert codes_left(row) == 4 - given
    assert row.limit == 4 - given + 1
    accept(row, *CODES[: 4 - given])
    assert row.forced_id == END
    assert accept(row, END).finish_reason == "stop"


def test_only_the_last_picture_of_a_prompt_can_be_open() -> None:
    complete = (BEGIN, *CODES[:4], END)
    assert codes_left(start(complete)) is None
    assert codes_left(start([*complete, WORD, BEGIN, CODES[0]])) == 3
    assert codes_left(start([*complete, *complete, WORD])) is None


def test_a_picture_begins_only_where_it_can_end() -> None:
    row = start(max_new_tokens=7)
    assert row.may_begin(BEGIN)
    # Begin-image, four codes and end-image are six ids: now just enough, then one too few.
    assert accept(row, WORD).may_begin(BEGIN)
    assert not accept(row, WORD).may_begin(BEGIN)


def test_a_picture_may_begin_ahead_only_where_it_still_fits() -> None:
    row = start(max_new_tokens=7)
    assert [row.may_begin(BEGIN, ahead) for ahead in range(3)] == [True, True, False]


def test_the_context_limits_pictures_like_max_new_tokens() -> None:
    assert start([WORD] * (CONTEXT - 6)).may_begin(BEGIN)
    assert not start([WORD] * (CONTEXT - 5)).may_begin(BEGIN)


@pytest.mark.parametrize(("max_images", "allowed"), [(None, True), (0, False), (1, False), (2, True)])
def test_max_images_bounds_the_pictures_that_are_begun(max_images: int | None, allowed: bool) -> None:
    row = start(max_images=max_images)
    accept(row, BEGIN, *CODES[:4], END)
    assert row.may_begin(BEGIN) == allowed


def test_a_prompts_pictures_dont_count_towards_max_images() -> None:
    assert start([BEGIN, *CODES[:4], END], max_images=1).may_begin(BEGIN)


def test_a_row_ends_at_its_limit() -> None:
    row = accept(start(max_new_tokens=2), WORD)
    assert row.finish_reason is None
    assert accept(row, WORD).finish_reason == "length"


def test_the_limit_is_what_remains_of_the_context_unless_given() -> None:
    assert start([WORD, WORD], modality="text").limit == CONTEXT - 2
    assert start([WORD, WORD], modality="text", max_new_tokens=5).limit == 5


def test_the_last_id_allowed_can_still_be_a_stop() -> None:
    assert accept(start(max_new_tokens=1), EOS).finish_reason == "stop"


@pytest.mark.parametrize(
    ("stop_id", "ids"),
    [
        (WORD + 1, [WORD, WORD + 1]),
        (BEGIN, [WORD, BEGIN]),
        (END, [BEGIN, *CODES[:4], END]),
        (CODES[2], [BEGIN, *CODES[:3]]),
    ],
    ids=["a word", "begin-image", "end-image", "a code"],
)
def test_a_stop_id_ends_the_row_wherever_it_comes(stop_id: int, ids: list[int]) -> None:
    row = start(stop_ids=(stop_id,))
    assert accept(row, *ids).finish_reason == "stop"


def test_begin_image_as_a_stop_needs_no_room_for_a_picture() -> None:
    assert start(max_new_tokens=1, max_images=0, stop_ids=(BEGIN,)).may_begin(BEGIN)


def test_end_of_stream_in_the_prompt_ends_nothing() -> None:
    assert start([WORD, EOS, WORD]).finish_reason is None


def test_without_a_vocabulary_map_all_ids_are_text() -> None:
    row = start([BEGIN, PLACEHOLDER], layout=None, modality="text")
    assert (row.forced_id, row.wants_code, row.may_begin(BEGIN)) == (None, False, False)
    assert accept(row, WORD, EOS).finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ((), {}, GenerationError, "row 3 of the batch is empty"),
        ((WORD,), {"layout": None}, GenerationError, "modality='interleaved'.*no vocabulary_map"),
        ((PLACEHOLDER, PLACEHOLDER), {}, GenerationError, "row 3 holds 2 image placeholders.*pixel_values"),
        ((BEGIN,), {"modality": "text"}, GenerationError, "row 3 ends inside a picture.*'image' or 'interleaved'"),
        ((BEGIN, *CODES[:5]), {}, GenerationError, "row 3 ends in a picture of 5 codes.*a picture has 4"),
        ((BEGIN, CODES[0], WORD), {}, GenerationError, r"row 3 .* holds ids \[40\], which aren.t picture codes"),
        ((WORD,), {"modality": "image", "max_new_tokens": 5}, GenerationError, "needs 6 more ids.*is 5"),
        ((BEGIN, CODES[0]), {"modality": "image", "max_new_tokens": 3}, GenerationError, "needs 4 more.*is 3"),
        (
            (WORD,) * 30,
            {"max_new_tokens": 3},
            ContextLengthError,
            "has 30 ids and may take 3 more, together 33.* 32.* 1 ",
        ),
        ((WORD,) * 32, {"modality": "text"}, ContextLengthError, "has 32 ids and may take 1 more, together 33"),
        ((WORD,) * 40, {"modality": "text"}, ContextLengthError, "has 40 ids.*by 9 "),
        ((WORD,) * 27, {"modality": "image"}, ContextLengthError, "has 27 ids and may take 6 more, together 33"),
    ],
)
def test_prompts_that_cant_be_continued_are_refused_with_the_numbers(
    prompt: tuple[int, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        start(prompt, **options)
