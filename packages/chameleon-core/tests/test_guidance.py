"""Classifier-free guidance of pictures: its branches, their weights, and what they do to the logits.

Shapes: L lanes, R rows, Z entries of the codebook, T length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, TokenLayout
from chameleon_core.generation import choosing
from chameleon_core.generation.guidance import guidance_branches
from chameleon_core.testing import make_config, make_model, make_scripted_model, pad_rows

LAYOUT = TokenLayout.from_config(make_config())
BOS, BEGIN, END = LAYOUT.bos_id, LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
PICTURE = [BEGIN, *CODES[:4], END]
WORD = 40

# Sums over different matrix shapes, times scales of about 3.
ROUNDING = {"rtol": 0.0, "atol": 1e-4}


def branches(ids: Sequence[int], text: float, image: float) -> dict[tuple[int, ...], float]:
    return {ids: round(weight, 6) for ids, weight in guidance_branches(ids, LAYOUT, text, image).items()}


def test_weights_are_those_of_the_formula() -> None:
    # uncond + 1.2 · (images − uncond) + 3 · (full − images): full 3, images −1.8, uncond −0.2.
    full = [BOS, WORD, *PICTURE, WORD, BEGIN]
    assert branches(full, 3.0, 1.2) == {(BOS, *PICTURE, BEGIN): -1.8, (BOS, BEGIN): -0.2}


def test_without_a_picture_in_the_context_two_branches_are_one() -> None:
    assert branches([BOS, WORD, WORD, BEGIN], 3.0, 1.2) == {(BOS, BEGIN): -2.0}


def test_at_scale_1_no_branch_is_left() -> None:
    assert branches([BOS, WORD, *PICTURE, WORD, BEGIN], 1.0, 1.0) == {}


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        # full − images is what text adds: at equal scales the pictures alone have weight 0.
        (2.0, 2.0, {(BOS, BEGIN): -1.0}),
        (3.0, 1.0, {(BOS, *PICTURE, BEGIN): -2.0}),
        (1.0, 2.0, {(BOS, *PICTURE, BEGIN): 1.0, (BOS, BEGIN): -1.0}),
        (0.0, 0.0, {(BOS, BEGIN): 1.0}),
        (0.0, 1.0, {(BOS, *PICTURE, BEGIN): 1.0}),
    ],
)
def test_branches_of_weight_zero_arent_run(text: float, image: float, expected: dict[tuple[int, ...], float]) -> None:
    assert branches([BOS, WORD, *PICTURE, WORD, BEGIN], text, image) == expected


def test_a_branch_that_is_the_context_itself_isnt_run_twice() -> None:
    # No text in the context: it is its pictures.
    assert branches([BOS, *PICTURE, BEGIN], 3.0, 1.2) == {(BOS, BEGIN): -0.2}
    assert branches([BOS, BEGIN], 3.0, 1.2) == {}


def test_an_open_picture_is_in_every_branch() -> None:
    opened = [BEGIN, *CODES[:2]]
    assert branches([BOS, WORD, *opened], 3.0, 1.2) == {(BOS, *opened): -2.0}
    assert branches([BOS, WORD, *PICTURE, *opened], 3.0, 1.2) == {(BOS, *PICTURE, *opened): -1.8, (BOS, *opened): -0.2}


def test_generated_pictures_count_as_the_contexts() -> None:
    # Ids are ids, whoever wrote them; words between pictures are left out.
    full = [BOS, WORD, *PICTURE, WORD, *PICTURE, BEGIN]
    assert set(branches(full, 3.0, 1.2)) == {(BOS, *PICTURE, *PICTURE, BEGIN), (BOS, BEGIN)}


@pytest.fixture
def fed() -> Iterator[list[int]]:
    """How many ids each pass feeds, over all lanes."""
    counts: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: counts.append(inputs[0].numel()) if hasattr(module, "embed_tokens") else None
    )
    yield counts
    handle.remove()


@pytest.mark.parametrize(
    ("prompt", "scales", "others"),
    [
        ([BOS, WORD, *PICTURE, WORD], (3.0, 1.2), [[BOS, *PICTURE], [BOS]]),
        ([BOS, WORD, WORD], (3.0, 1.2), [[BOS]]),
        ([BOS, WORD, *PICTURE, WORD], (3.0, 1.0), [[BOS, *PICTURE]]),
        ([BOS, WORD, *PICTURE, WORD], (1.0, 1.0), []),
        ([BOS], (3.0, 1.2), []),
    ],
    ids=["three branches", "no picture in the context", "image scale 1", "both scales 1", "nothing but the start"],
)
def test_only_branches_that_differ_are_fed(
    fed: list[int], prompt: list[int], scales: tuple[float, float], others: list[list[int]]
) -> None:
    text, image = scales
    make_model().generate(torch.tensor([prompt]), modality="image", guidance_text=text, guidance_image=image)
    contexts = [prompt, *others]
    # Each context with begin-image gives the first code, and each further code is fed once a lane; end-image isn't fed.
    assert fed == [sum(len(context) + 1 for context in contexts), *[len(contexts)] * 3]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], Tensor]]:
    """The rows and logits of every choice among codes."""
    choices: list[tuple[list[int], Tensor]] = []
    original = choosing._choose_alike

    def recording(chain: Any, logits: Tensor, candidates: Any, points: Sequence[choosing.Point]) -> list[int]:
        if logits.shape[1] == LAYOUT.num_codes:
            choices.append(([point.row.index for point in points], logits.clone()))
        return original(chain, logits, candidates, points)

    monkeypatch.setattr(choosing, "_choose_alike", recording)
    return choices


@torch.no_grad()
def code_logits(model: ChameleonForConditionalGeneration, context: Sequence[int]) -> Tensor:
    """The codes' logits after a context, from a pass of its own, [Z]."""
    return model(torch.tensor([list(context)])).logits[0, -1, LAYOUT.code_to_id_Z]


def formula(model: ChameleonForConditionalGeneration, ids: Sequence[int], text: float, image: float) -> Tensor:
    """Guided logits [Z] as the paper's release states them, from three passes over three contexts."""
    begin = len(ids) - 1 - list(reversed(ids)).index(BEGIN)
    full = code_logits(model, ids)
    images = code_logits(model, [id_ for id_ in ids if id_ in {BOS, BEGIN, END, *CODES}])
    unconditional = code_logits(model, [BOS, *ids[begin:]])
    return unconditional + image * (images - unconditional) + text * (full - images)


@pytest.mark.parametrize(
    "prompt",
    [[BOS, WORD, *PICTURE, WORD + 1], [BOS, WORD, WORD + 1], [BOS], [WORD, WORD + 1], [BOS, WORD, BEGIN, CODES[9]]],
    ids=["a picture before", "text before", "nothing before", "no <s>", "an open picture"],
)
def test_guided_logits_are_the_formula_over_three_passes(
    drawn: list[tuple[list[int], Tensor]], prompt: list[int]
) -> None:
    model = make_model()
    ids = model.generate(torch.tensor([prompt]), modality="image", guidance_text=3.0, guidance_image=1.2)[0].tolist()
    first = len(ids) - 1 - len(drawn)
    for place, (_, logits_RZ) in enumerate(drawn, start=first):
        torch.testing.assert_close(logits_RZ[0], formula(model, ids[:place], 3.0, 1.2), **ROUNDING)
    assert len(drawn) == (3 if BEGIN in prompt and CODES[9] in prompt else 4)


def test_guidance_changes_the_picture() -> None:
    model, prompt = make_model(), torch.tensor([[BOS, WORD, *PICTURE, WORD]])
    plain = model.generate(prompt, modality="image")
    assert not torch.equal(model.generate(prompt, modality="image", guidance_text=5.0), plain)
    assert torch.equal(model.generate(prompt, modality="image", guidance_text=1.0, guidance_image=1.0), plain)


def test_guided_rows_of_a_batch_that_begin_pictures_at_different_steps_are_as_alone(
    drawn: list[tuple[list[int], Tensor]],
) -> None:
    """Row 0 begins a picture at its third id, row 1 at its first, row 2 never; row 1 then begins a second one."""
    words = [WORD, WORD + 1, WORD + 2]
    follow = {words[0]: words[1], words[1]: words[2], words[2]: BEGIN, END: words[1], 50: 50}
    model = make_scripted_model(follow)
    rows = [[BOS, WORD + 5, words[0]], [BOS, *PICTURE, words[2]], [BOS, 50]]
    options = {
        "modality": "interleaved",
        "max_new_tokens": 16,
        "guidance_text": 3.0,
        "guidance_image": 1.2,
    }
    prompt, mask = pad_rows(rows)
    together = model.generate(prompt, mask, **options)[:, prompt.shape[1] :]
    assert together[0, :3].tolist() == [words[1], words[2], BEGIN]
    assert together[1, 0] == BEGIN
    assert (together[1] == BEGIN).sum() == 2
    assert together[2].tolist() == [50] * 16

    in_batch = list(drawn)
    for index, row in enumerate(rows):
        drawn.clear()
        alone = model.generate(torch.tensor([row]), **options)[0, len(row) :]
        assert torch.equal(together[index], alone)
        logits = [logits_RZ[indices.index(index)] for indices, logits_RZ in in_batch if index in indices]
        assert len(logits) == len(drawn)
        for batched, (_, own_RZ) in zip(logits, drawn, strict=True):
            torch.testing.assert_close(batched, own_RZ[0], **ROUNDING)


def test_guided_and_unguided_rows_share_a_batch(drawn: list[tuple[list[int], Tensor]]) -> None:
    """A row of nothing but <s> has no branch to differ from, beside one that has two."""
    model = make_model()
    rows = [[BOS, WORD, *PICTURE, WORD], [BOS]]
    model.generate(*pad_rows(rows), modality="image", guidance_text=3.0, guidance_image=1.2)
    indices, logits_RZ = drawn[0]
    for index, row in zip(indices, (rows[index] for index in indices), strict=True):
        expected = formula(model, [*row, BEGIN], 3.0, 1.2)
        torch.testing.assert_close(logits_RZ[indices.index(index)], expected, **ROUNDING)
