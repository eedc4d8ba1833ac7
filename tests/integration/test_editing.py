"""Pictures drawn anew in part, several for one prompt, and away from a negative one."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from chameleon_core import Chameleon, GenerationError
from chameleon_core.demo import make_chameleon


@pytest.fixture(scope="module")
def chameleon() -> Chameleon:
    return make_chameleon(resolution=16)


@pytest.fixture(scope="module")
def picture() -> PIL.Image.Image:
    random = np.random.default_rng(0)
    return PIL.Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def codes_of(chameleon: Chameleon, monkeypatch: pytest.MonkeyPatch, draw: Any) -> list[int]:
    """The codes that a call decodes."""
    seen: list[list[int]] = []
    decode = chameleon.image_tokenizer.decode

    def watched(codes_BN: torch.Tensor, **options: Any) -> Any:
        seen.extend(torch.as_tensor(codes_BN).tolist())
        return decode(codes_BN, **options)

    monkeypatch.setattr(chameleon.image_tokenizer, "decode", watched)
    draw()
    return seen[-1]


def test_only_what_the_mask_covers_is_drawn_anew(
    chameleon: Chameleon, picture: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = chameleon.image_tokenizer.encode([picture]).tolist()
    mask = np.zeros((48, 64), dtype=np.uint8)
    # The picture is scaled to 16 pixels of height and cropped in the middle: 8 × 8 codes of 6 pixels each.
    mask[12:24, 20:32] = 255
    options: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "seed": 1}
    forms = [mask, mask > 0, PIL.Image.fromarray(mask), PIL.Image.fromarray(mask).convert("RGB")]
    after = [
        codes_of(chameleon, monkeypatch, lambda form=form: chameleon.inpaint(picture, form, "a leaf", **options))
        for form in forms
    ]
    assert after[1:] == after[:1] * 3
    changed = {place for place, pair in enumerate(zip(before, after[0], strict=True)) if pair[0] != pair[1]}
    # The masked positions, and one more on each side, where resizing mixes their pixels in.
    near = {row * 8 + column for row in range(1, 5) for column in range(1, 5)}
    assert changed
    assert changed <= near


def test_a_variation_keeps_the_share_that_was_asked_for(
    chameleon: Chameleon, picture: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = chameleon.image_tokenizer.encode([picture]).tolist()
    options: dict[str, Any] = {"do_sample": True, "temperature": 5.0}

    def varied(strength: float, seed: int) -> list[int]:
        return codes_of(
            chameleon, monkeypatch, lambda: chameleon.vary(picture, "", strength=strength, seed=seed, **options)
        )

    kept = [found == code for found, code in zip(varied(0.25, 0), before, strict=True)]
    assert sum(kept) >= 48
    assert varied(0.25, 0) == varied(0.25, 0) != varied(0.25, 1)
    assert sum(found == code for found, code in zip(varied(1.0, 0), before, strict=True)) < 48
    for strength in (0.0, 1.5):
        with pytest.raises(GenerationError, match=rf"in \(0, 1\]; got {strength}"):
            chameleon.vary(picture, "", strength=strength)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((10, 10), dtype=np.uint8), r"the mask has 10×10 pixels and the picture 48×64"),
        (np.zeros((48, 64), dtype=np.uint8), "the mask leaves every position"),
        (np.zeros((48, 64, 3), dtype=np.uint8), r"the mask is uint8 \[48, 64, 3\]"),
        (np.zeros((48, 64)), r"the mask is float64 \[48, 64\]"),
    ],
)
def test_masks_that_cant_be_are_refused(
    chameleon: Chameleon, picture: PIL.Image.Image, mask: Any, message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        chameleon.inpaint(picture, mask, "a leaf")


def test_several_pictures_of_one_prompt(chameleon: Chameleon) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 3}
    pictures = chameleon.draw("a leaf", num_images=3, **options)
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert pictures[0].tobytes() == chameleon.draw("a leaf", **options).tobytes()
    with pytest.raises(GenerationError, match="num_images must be at least 1"):
        chameleon.draw("a leaf", num_images=0)


def test_a_negative_prompt_leads_elsewhere(chameleon: Chameleon) -> None:
    negative = chameleon.prompt_ids("a stone")
    guided = chameleon.draw("a leaf", guidance_text=6.0)
    assert chameleon.draw("a leaf", guidance_text=6.0, negative_prompt_ids=negative).tobytes() != guided.tobytes()
