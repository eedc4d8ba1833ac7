"""Pictures of which some codes are given, and prompts that guidance leads away from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chameleon_core import ConfigError, ContextLengthError, GenerationError
from chameleon_core.generation.guidance import guidance_branches
from chameleon_core.testing import make_model

MODEL = make_model().double()
LAYOUT = MODEL.layout
BOS, BEGIN, END = LAYOUT.bos_id, LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
PROMPT = torch.tensor([[BOS, 40, 41]])


def drawn(prompt: torch.Tensor = PROMPT, **options: Any) -> list[int]:
    """The codes of a picture."""
    ids = MODEL.generate(prompt, modality="image", **options)[0].tolist()
    begin = len(ids) - 1 - ids[::-1].index(BEGIN)
    assert ids[-1] == END
    return [CODES.index(token_id) for token_id in ids[begin + 1 : -1]]


given_codes = st.tuples(*[st.none() | st.integers(0, len(CODES) - 1)] * 4)


@given(given_codes, st.booleans(), st.sampled_from([1.0, 3.0]), st.integers(0, 3))
def test_fixed_codes_stay_and_the_others_are_what_the_model_writes_after_them(
    fixed: tuple[int | None, ...], do_sample: bool, guidance: float, seed: int
) -> None:
    options: dict[str, Any] = {"do_sample": do_sample, "guidance_text": guidance, "seed": seed}
    if do_sample:
        options["temperature"] = 2.0
    codes = drawn(fixed_codes=fixed, **options)
    assert all(code in (None, found) for code, found in zip(fixed, codes, strict=True))
    # What follows the last given code is a continuation of what is before it.
    last = max((place for place, code in enumerate(fixed) if code is not None), default=-1) + 1
    opened = torch.tensor([[*PROMPT[0].tolist(), BEGIN, *(CODES[code] for code in codes[:last])]])
    assert drawn(opened, **options) == codes
    assert drawn(fixed_codes=codes, **options) == codes


def test_codes_that_are_given_in_a_row_are_read_in_one_pass() -> None:
    fed: list[int] = []
    handle = MODEL.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].numel()))
    drawn(fixed_codes=(None, 1, 2, None))
    drawn(fixed_codes=(3, 1, 2, 0))
    handle.remove()
    assert fed == [4, 3]


def test_a_picture_that_the_prompt_leaves_open_goes_on_with_what_is_fixed() -> None:
    opened = torch.tensor([[BOS, BEGIN, CODES[7]]])
    assert drawn(opened, fixed_codes=(None, None, 5, None))[:3:2] == [7, 5]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fixed_codes": (1, 2)}, GenerationError, "fixed_codes has 2 entries.*the picture has 4"),
        ({"fixed_codes": (1, 2, 3, 99)}, GenerationError, r"has codes \[99\]; the model's are 0…15"),
        ({"fixed_codes": (1, 2, 3, 4), "modality": "text"}, ConfigError, "of modality 'image'; got 'text'"),
        ({"negative_prompt_ids": (64,)}, GenerationError, r"negative_prompt_ids \[64\] are outside the vocabulary"),
        ({"negative_prompt_ids": (40,) * 126}, ContextLengthError, "the negative prompt has 126 ids.*holds 128"),
    ],
)
def test_what_cant_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODEL.generate(PROMPT, **{"modality": "image", **options})


def test_a_negative_prompt_takes_the_place_of_the_contexts_without_text() -> None:
    picture = [BEGIN, *CODES[:4], END]
    ids = [BOS, 40, *picture, 41, BEGIN]
    negative = (BOS, 50, 51)
    assert guidance_branches(ids, LAYOUT, 3.0, 1.0, negative) == {(*negative, *picture, BEGIN): -2.0}
    both = guidance_branches(ids, LAYOUT, 3.0, 1.2, negative)
    assert set(both) == {(*negative, *picture, BEGIN), (*negative, BEGIN)}
    assert guidance_branches([BOS, 40, BEGIN], LAYOUT, 3.0, 1.2, negative) == {(*negative, BEGIN): -2.0}


def test_a_negative_prompt_changes_guided_pictures_alone() -> None:
    assert drawn(negative_prompt_ids=(BOS, 50, 51)) == drawn()
    assert drawn(guidance_text=8.0, negative_prompt_ids=(BOS, 50, 51)) != drawn(guidance_text=8.0)
    # Guidance away from the prompt itself is none.
    itself = tuple(PROMPT[0].tolist())
    assert drawn(guidance_text=8.0, negative_prompt_ids=itself) == drawn()
