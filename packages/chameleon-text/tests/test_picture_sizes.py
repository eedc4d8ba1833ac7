"""Pictures of several sizes: a processor writes, reads and draws them by the picture format of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import (
    ChameleonProcessor,
    ConfigError,
    Document,
    DocumentError,
    Image,
    MissingPackageError,
    Text,
    TokenizerWarning,
    document_from_json,
    document_to_json,
)
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer

SIZES = {(2, 3): "<wide>", (3, 2): "<tall>", (1, 1): "<dot>"}
TOKENIZER = make_tokenizer(more_specials=tuple(SIZES.values()))
IDS = TOKENIZER.token_ids
BEGIN, END = IDS["<racm3:break>"], IDS["<eoss>"]


class Format:
    """Pictures of three sizes: a name for the size, and the codes."""

    marker_ids = frozenset(IDS[name] for name in SIZES.values())

    def __init__(self) -> None:
        vocabulary = ChameleonProcessor(TOKENIZER).vocabulary
        self.code_to_id, self.id_to_code = vocabulary.code_to_id, vocabulary.id_to_code

    def write(self, codes: Sequence[int], grid: tuple[int, int] | None) -> list[int]:
        if grid not in SIZES or len(codes) > grid[0] * grid[1]:
            raise ValueError(f"there is no picture of the grid {grid} with {len(codes)} codes.")
        return [BEGIN, IDS[SIZES[grid]], *(int(self.code_to_id[code]) for code in codes), END]

    def read(self, ids: Sequence[int], start: int) -> tuple[tuple[int, ...], tuple[int, int] | None, int]:
        end, codes = start + 1, []
        grid = next((grid for grid, name in SIZES.items() if ids[end : end + 1] == [IDS[name]]), None)
        end += grid is not None
        while grid is not None and end < len(ids) and self.id_to_code[ids[end]] >= 0 and len(codes) < grid[0] * grid[1]:
            codes.append(int(self.id_to_code[ids[end]]))
            end += 1
        return tuple(codes), grid, end + (ids[end : end + 1] == [END])

    def fit(self, height: int, width: int) -> tuple[int, int]:
        return (2, 3) if width > height else (3, 2)

    def pixels(self, grid: Any) -> tuple[int, int]:
        return grid[0] * 4, grid[1] * 4

    def num_codes(self, grid: Any) -> int:
        return int(grid[0] * grid[1])


def make_processor(**changes: Any) -> ChameleonProcessor:
    parts = {"image_tokenizer": FakeImageTokenizer(), "picture_format": Format(), **changes}
    return ChameleonProcessor(TOKENIZER, **parts)


def pictures() -> st.SearchStrategy[Image]:
    """Pictures of all sizes, complete or cut off."""
    grids = st.sampled_from(sorted(SIZES))
    return grids.flatmap(
        lambda grid: st.lists(st.integers(0, 63), max_size=grid[0] * grid[1]).map(
            lambda codes: Image(codes=tuple(codes), grid=grid)
        )
    )


@given(st.lists(pictures(), max_size=4))
def test_pictures_of_several_sizes_come_back_with_their_grids(images: list[Image]) -> None:
    document = [each for image in images for each in (image, Text("and"))]
    processor = make_processor()
    assert processor.decode_document(processor.encode(document)) == document
    assert document_from_json(document_to_json(document)) == document


@given(st.lists(st.sampled_from([BEGIN, END, *Format.marker_ids, *map(int, Format().code_to_id[:4]), 40]), max_size=12))
def test_any_ids_are_read_and_no_code_is_lost(ids: list[int]) -> None:
    read = make_processor().decode_document(ids)
    codes = [code for segment in read if isinstance(segment, Image) for code in segment.codes or ()]
    id_to_code = Format().id_to_code
    assert codes == [int(id_to_code[token_id]) for token_id in ids if id_to_code[token_id] >= 0]


def test_each_picture_is_read_at_the_size_that_fits_it_and_drawn_at_its_own() -> None:
    processor = make_processor()
    wide, tall = np.full((20, 60, 3), 7, np.uint8), np.full((60, 20, 3), 9, np.uint8)
    read = processor.decode_document(processor.encode([wide, "and", tall, wide]))
    grids = [segment.grid for segment in read if isinstance(segment, Image)]
    assert grids == [(2, 3), (3, 2), (2, 3)]
    assert processor.image_tokenizer is not None
    assert processor.image_tokenizer.calls == 2, "those of one size are read together"  # type: ignore[attr-defined]
    drawn = processor.draw(read)
    assert [segment.image.shape for segment in drawn if isinstance(segment, Image)] == [
        (8, 12, 3),
        (12, 8, 3),
        (8, 12, 3),
    ]
    again = processor.decode_document(
        processor.encode([Image(each.image) for each in drawn if isinstance(each, Image)])
    )
    assert [segment.grid for segment in again if isinstance(segment, Image)] == grids


def test_a_picture_that_was_cut_off_is_not_drawn() -> None:
    document = Document([Image(codes=(1, 2), grid=(2, 3)), Image(codes=(), grid=None)])
    assert make_processor().draw(document) == document


@pytest.mark.parametrize(
    ("segment", "changes", "error", "message"),
    [
        (Image(codes=(1,) * 5), {}, DocumentError, "no picture of the grid None"),
        (Image(codes=(1,) * 5, grid=(5, 1)), {}, DocumentError, r"no picture of the grid \(5, 1\)"),
        (Image(), {}, DocumentError, "Placeholders.*can't be used"),
        (Image(np.zeros((8, 8, 3), np.uint8)), {"image_tokenizer": None}, MissingPackageError, "can't read pictures"),
    ],
)
def test_pictures_that_cant_be_written_are_refused(
    segment: Image, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_processor(**changes).encode([segment])


@pytest.mark.parametrize("grid", [(0, 2), (2,), (2.0, 2), "22", 4])
def test_a_grid_is_two_numbers(grid: Any) -> None:
    with pytest.raises(DocumentError, match="height and width in codes, each ≥ 1"):
        Image(codes=(1, 2), grid=grid)


def test_a_grid_belongs_to_codes() -> None:
    with pytest.raises(DocumentError, match="a grid and no codes"):
        Image(grid=(2, 2))
    assert repr(Image(codes=(1, 2), grid=(1, 2))) == "Image(codes=(1, 2), grid=(1, 2))"


def test_an_image_tokenizer_of_one_size_is_refused() -> None:
    class OneSize:
        num_codes, tokens_per_image = 64, 4

    with pytest.raises(ConfigError, match=r"OneSize, has no picture_size\(\)"):
        make_processor(image_tokenizer=OneSize()).encode([np.zeros((8, 8, 3), np.uint8)])


def test_a_folder_whose_pictures_have_sizes_is_not_read_as_one_of_one_size_without_a_word(tmp_path: Path) -> None:
    make_processor().save_pretrained(tmp_path)
    for requested in ("acme", {"name": "acme", "sides": 3}):
        (tmp_path / "config.json").write_text(json.dumps({"picture_grammar": requested}))
        with pytest.warns(TokenizerWarning, match="picture grammar 'acme'.*picture_format=model.layout.pictures"):
            ChameleonProcessor.from_pretrained(tmp_path)
    ChameleonProcessor.from_pretrained(tmp_path, picture_format=Format())
