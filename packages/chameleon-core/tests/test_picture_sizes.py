"""Pictures of several sizes: what may come next, whatever the logits, and rows of several sizes in one batch.

Double precision, so that rounding, which depends on the shapes of a pass, decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleon_core import ChameleonForConditionalGeneration, ContextLengthError, GenerationError, GenerationOptions
from chameleon_core.generation import Engine, Request
from chameleon_core.generation.guidance import guidance_branches
from chameleon_core.picture_grammars import Grid
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.testing import make_config, make_model, make_vocabulary, pad_rows

NAMES = make_vocabulary(more_specials=[reserved(8799 + number) for number in range(6)])
STRIDE = 2


def several_sizes(seed: int = 0) -> ChameleonForConditionalGeneration:
    config = make_config(
        vocab_size=len(NAMES),
        vocabulary_map=NAMES,
        vq_config={"resolution": 8, "channel_multiplier": [1, 1]},
        picture_grammar={"name": "lumina", "max_codes": 32},
        max_position_embeddings=96,
    )
    return make_model(config, seed=seed).double()


MODEL = several_sizes()
LAYOUT = MODEL.layout
PICTURES = LAYOUT.pictures
BOS, EOS, BEGIN, END = LAYOUT.bos_id, LAYOUT.eos_id, LAYOUT.begin_image_id, LAYOUT.end_image_id
CODES = LAYOUT.code_to_id_Z.tolist()
ROW_END = NAMES[reserved(8799)]
A, B, C = 40, 41, 42
GRIDS = PICTURES.grids


def pixels(grid: Grid) -> tuple[int, int]:
    return grid.height * STRIDE, grid.width * STRIDE


def write(*requests: Request, model: ChameleonForConditionalGeneration = MODEL, **room: Any) -> list[list[int]]:
    """Return what requests write that are submitted together."""
    engine = Engine(model, **room)
    handles = [engine.submit(request) for request in requests]
    for _ in engine.run():
        pass
    for handle in handles:
        if handle.error is not None:
            raise handle.error
    return [handle.new_ids for handle in handles]


def drawing(grid: Grid | None = None, prompt: Sequence[int] = (BOS, A, B), **options: Any) -> Request:
    size = None if grid is None else pixels(grid)
    return Request(prompt=prompt, options=GenerationOptions(modality="image", image_size=size, **options))


def grid_of(ids: Sequence[int]) -> Grid:
    """Return the grid of a picture, which is all that there is."""
    picture = PICTURES.read(ids)
    assert picture.end == len(ids)
    assert picture.grid is not None
    assert ids == PICTURES.write(picture.codes, picture.grid), "not as the grammar writes it"
    assert len(picture.codes) == PICTURES.num_codes(picture.grid)
    return picture.grid


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_size_that_was_asked_for_is_drawn(grid: Grid) -> None:
    for options in ({}, {"do_sample": True, "seed": 3, "guidance_text": 3.0}):
        (ids,) = write(drawing(grid, **options))
        assert grid_of(ids) == grid


def test_the_model_chooses_the_size_where_none_is_asked_for() -> None:
    requests = [drawing(do_sample=True, seed=seed, temperature=5.0) for seed in range(12)]
    grids = {grid_of(ids) for ids in write(*requests)}
    assert len(grids) >= 4


@st.composite
def requests(draw: st.DrawFn) -> Request:
    options: dict[str, Any] = {"modality": draw(st.sampled_from(["image", "interleaved"]))}
    if draw(st.booleans()):
        options["image_size"] = pixels(draw(st.sampled_from(GRIDS)))
    if draw(st.booleans()) or options["modality"] == "interleaved":
        options["max_new_tokens"] = draw(st.integers(46, 60))
    if draw(st.booleans()):
        options |= {"do_sample": True, "temperature": 4.0, "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        options |= {"guidance_text": 3.0, "guidance_image": draw(st.sampled_from([1.0, 1.2]))}
    prompt = draw(st.lists(st.integers(40, 63), min_size=1, max_size=12))
    if draw(st.booleans()):
        prompt = [BOS, *PICTURES.write(range(4), Grid(2, 2)), *prompt]
    if draw(st.booleans()) and "image_size" not in options:
        whole = PICTURES.write(range(8), draw(st.sampled_from([Grid(2, 4), Grid(4, 2)])))
        prompt += whole[: draw(st.integers(1, len(whole) - 1))]
    return Request(prompt=prompt, options=GenerationOptions(**options), index=draw(st.integers(0, 3)))


@given(st.lists(requests(), min_size=2, max_size=4), st.sampled_from([None, 2]), st.sampled_from([None, 1, 7]))
@settings(max_examples=30)
def test_rows_of_several_sizes_are_the_same_alone_and_together(
    asked: list[Request], max_rows: int | None, prompt_chunk: int | None
) -> None:
    assert write(*asked, max_rows=max_rows, prompt_chunk=prompt_chunk) == [write(each)[0] for each in asked]


@given(st.lists(requests(), min_size=1, max_size=3), st.sampled_from([1, 3, 8, 16]))
@settings(max_examples=40)
def test_guesses_change_no_picture_of_any_size(asked: list[Request], window: int) -> None:
    """The ids that the grammar forces, sizes and ends of rows, lie between the guesses."""
    decoding = {"name": "jacobi", "window": window}
    guessed = [replace(each, options=each.options.replace(decoding=decoding)) for each in asked]
    assert write(*guessed) == write(*asked)


@given(requests(), st.floats(0, 1))
@settings(max_examples=40)
def test_a_picture_of_any_size_goes_on_where_it_was_interrupted(request: Request, share: float) -> None:
    (whole,) = write(request)
    assert write(replace(request, written=whole[: round(share * len(whole))])) == [whole]


def test_a_batch_of_three_sizes_is_what_three_single_runs_draw() -> None:
    """Through ``model.generate`` too, where the rows of one call have one set of options and choose their sizes."""
    grids = [Grid(2, 8), Grid(4, 4), Grid(8, 2)]
    options = {"do_sample": True, "seed": 7, "guidance_text": 2.0}
    asked = [drawing(grid, prompt=[BOS, A + place], **options) for place, grid in enumerate(grids)]
    together = write(*asked)
    assert [grid_of(ids) for ids in together] == grids
    assert together == [write(each)[0] for each in asked]
    rows, mask = pad_rows([[BOS, A], [BOS, B, C, A], [BOS, C, C]])
    drawn = MODEL.generate(rows, mask, modality="image", do_sample=True, temperature=5.0, seed=1)[:, rows.shape[1] :]
    ends = [ids.index(END) + 1 for ids in drawn.tolist()]
    assert len({grid_of(ids[:end]) for ids, end in zip(drawn.tolist(), ends, strict=True)}) > 1


class AnyLogits(torch.nn.Linear):
    """An output layer of any logits, the same for equal hidden states and otherwise as if by chance."""

    def __init__(self, like: torch.nn.Linear, seed: int, forbidden: Sequence[int]) -> None:
        super().__init__(like.in_features, like.out_features, bias=False, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.weight.normal_(generator=generator)
            self.weight[list(forbidden)] *= 100


@given(st.integers(0, 2**31), st.lists(st.integers(0, len(NAMES) - 1), max_size=6), requests())
@settings(max_examples=60)
def test_no_invalid_id_ever_appears_whatever_the_logits(seed: int, loud: list[int], request: Request) -> None:
    model = several_sizes()
    model.lm_head = AnyLogits(model.lm_head, seed, loud)
    (written,) = write(request, model=model)
    ids = [*request.prompt, *written]
    place = len(request.prompt)
    opened = max((at for at in range(place) if ids[at] == BEGIN), default=None)
    if opened is not None and END not in ids[opened:place]:
        place = opened
    size = request.options.image_size
    while place < len(ids):
        if ids[place] != BEGIN:
            assert LAYOUT.text_allowed_V[ids[place]] or ids[place] == EOS
            assert request.options.modality == "interleaved"
            place += 1
            continue
        picture = PICTURES.read(ids, place)
        assert picture.grid is not None
        assert size is None or pixels(picture.grid) == size
        whole = PICTURES.write(picture.codes, picture.grid)
        if picture.end < len(ids) or request.options.modality == "image":
            assert ids[place : picture.end] == whole
            assert len(picture.codes) == PICTURES.num_codes(picture.grid)
        place = picture.end


# Budgets.


@pytest.mark.parametrize("limit", [10, 16, 24, 60])
def test_only_sizes_that_fit_the_limit_are_drawn(limit: int) -> None:
    requests = [drawing(do_sample=True, seed=seed, temperature=9.0, max_new_tokens=limit) for seed in range(8)]
    for ids in write(*requests):
        grid_of(ids)
        assert len(ids) <= limit


def test_only_sizes_that_fit_the_context_are_drawn() -> None:
    prompt = [BOS, *[A] * 79]
    for ids in write(*(drawing(prompt=prompt, do_sample=True, seed=seed, temperature=9.0) for seed in range(8))):
        grid_of(ids)
        assert len(prompt) + len(ids) <= MODEL.config.context_length


def test_a_picture_that_fits_nowhere_is_refused_with_the_smallest_one() -> None:
    with pytest.raises(GenerationError, match="a picture needs 10 more ids; max_new_tokens is 9"):
        write(drawing(max_new_tokens=9))
    with pytest.raises(ContextLengthError, match="may take 24 more"):
        write(drawing(Grid(4, 4), prompt=[A] * 90))


def test_a_size_that_the_model_has_not_is_refused() -> None:
    request = Request(prompt=[A], options=GenerationOptions(modality="image", image_size=(6, 8)))
    with pytest.raises(GenerationError, match=r"no pictures of 6×8 pixels .* the nearest are"):
        write(request)


def test_a_prompt_with_another_size_than_was_asked_for_is_refused() -> None:
    open_picture = PICTURES.write(range(8), Grid(2, 4))[:5]
    with pytest.raises(GenerationError, match=r"comes 1 ids after begin-image; expected one of .* image_size"):
        write(drawing(Grid(4, 4), prompt=open_picture))


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ([A], r"holds ids \[40\]"),
        ([CODES[0]], "comes 1 ids after begin-image; expected one of"),
        ([NAMES[reserved(8801)], NAMES[reserved(8801)], ROW_END], "comes 3 ids after .* expected a picture code"),
        ([NAMES[reserved(8801)], NAMES[reserved(8801)], *CODES[:3]], "comes 5 ids after .* expected one of"),
    ],
)
def test_a_prompt_that_ends_in_no_picture_of_the_grammar_is_refused(inside: list[int], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        write(drawing(prompt=[BEGIN, *inside]))


def test_the_images_alone_of_a_context_have_their_sizes_and_row_ends() -> None:
    picture = PICTURES.write(range(4), Grid(2, 2))
    ids = [BOS, A, *picture, B, BEGIN]
    assert set(guidance_branches(ids, LAYOUT, 3.0, 2.0)) == {(BOS, *picture, BEGIN), (BOS, BEGIN)}


def test_a_model_without_ids_of_text_says_so_when_it_is_asked_for_text() -> None:
    names = {name: token_id for name, token_id in make_vocabulary(size=24).items() if not name.startswith("word")}
    model = make_model(make_config(vocab_size=24, vocabulary_map=names))
    prompt = torch.tensor([[names["<s>"]]])
    for modality in ("text", "interleaved"):
        with pytest.raises(GenerationError, match=f"modality='{modality}' writes text.*names no ids of text"):
            model.generate(prompt, modality=modality)
    assert model.generate(prompt, modality="image").shape == (1, 7)
