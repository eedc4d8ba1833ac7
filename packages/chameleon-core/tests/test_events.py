"""How a row's ids become events and a document, without any sibling package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from chameleon_core.layout import TokenLayout
from chameleon_core.pipeline import Finished, ImageFinished, ImageProgress, ImageStarted, TextDelta
from chameleon_core.pipeline.row_reader import RowReader
from chameleon_core.testing import make_config

LAYOUT = TokenLayout.from_config(make_config())
CODES = (3, 0, 15, 3)


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Image:
    image: Any = None
    codes: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None


class Pairs:
    """A stream decoder in which two ids are one character, as bytes can be."""

    def __init__(self) -> None:
        self._waiting: list[int] = []

    def push(self, token_id: int) -> str:
        self._waiting.append(token_id)
        if len(self._waiting) < 2:
            return ""
        first, second = self._waiting
        self._waiting = []
        return f"({first} {second})"

    def flush(self) -> str:
        rest = "?" if self._waiting else ""
        self._waiting = []
        return rest


@pytest.fixture(autouse=True)
def chameleon_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chameleon_text", SimpleNamespace(Text=Text, Image=Image))  # type: ignore[arg-type]


def reader(*, preview_every: int = 0) -> RowReader:
    return RowReader(
        7,
        layout=LAYOUT,
        decoder=Pairs(),
        draw=lambda codes, grid: ("drawn", *codes),  # type: ignore[arg-type,return-value]
        preview=lambda codes, grid: ("preview", *codes),  # type: ignore[arg-type,return-value]
        decode=lambda ids: [("segment", *ids)],  # type: ignore[list-item]
        document=[],  # type: ignore[arg-type]
        preview_every=preview_every,
    )


def events(row: RowReader, ids: Sequence[int]) -> list[Any]:
    return [event for token_id in ids for event in row.push(token_id)]


def text_ids(count: int) -> list[int]:
    return LAYOUT.text_allowed_V.nonzero()[:count, 0].tolist()  # type: ignore[no-any-return]


def picture_ids(codes: Sequence[int] = CODES, *, end: bool = True) -> list[int]:
    inner = LAYOUT.code_to_id_Z[list(codes)].tolist()
    return [LAYOUT.begin_image_id, *inner, *([LAYOUT.end_image_id] if end else [])]


def test_text_comes_in_complete_characters() -> None:
    a, b, c = text_ids(3)
    row = reader()
    assert events(row, [a, b, c]) == [TextDelta(7, f"({a} {b})")]
    assert list(row.finish("length")) == [
        TextDelta(7, "?"),
        Finished(7, "length", [Text(f"({a} {b})?")]),  # type: ignore[list-item]
    ]


def test_a_character_ends_where_a_picture_begins() -> None:
    (a,) = text_ids(1)
    assert events(reader(), [a, LAYOUT.begin_image_id]) == [TextDelta(7, "?"), ImageStarted(7, 4)]


def test_a_picture_is_announced_followed_and_drawn() -> None:
    row = reader(preview_every=2)
    assert events(row, picture_ids()) == [
        ImageStarted(7, 4),
        ImageProgress(7, 1, 4, None),
        ImageProgress(7, 2, 4, ("preview", 3, 0)),  # type: ignore[arg-type]
        ImageProgress(7, 3, 4, None),
        # The complete picture comes with the next event, so this one has no preview.
        ImageProgress(7, 4, 4, None),
        ImageFinished(7, ("drawn", *CODES), CODES),  # type: ignore[arg-type]
    ]
    assert list(row.finish("stop")) == [Finished(7, "stop", [Image(("drawn", *CODES), CODES)])]  # type: ignore[list-item]


def test_text_and_pictures_keep_their_order() -> None:
    a, b, c, d = text_ids(4)
    row = reader()
    events(row, [a, b, *picture_ids(), c, d, LAYOUT.eos_id])
    (finished,) = row.finish("stop")
    assert isinstance(finished, Finished)
    assert finished.document == [Text(f"({a} {b})"), Image(("drawn", *CODES), CODES), Text(f"({c} {d})")]


@pytest.mark.parametrize("done", range(len(CODES) + 1))
def test_a_picture_that_was_cut_off_keeps_its_codes(done: int) -> None:
    row = reader()
    events(row, picture_ids(CODES[:done], end=False))
    (finished,) = row.finish("cancelled")
    assert isinstance(finished, Finished)
    (picture,) = finished.document
    assert isinstance(picture, Image)
    assert picture.codes == CODES[:done]
    assert picture.image[0] == ("drawn" if done == len(CODES) else "preview")


def test_ids_without_a_meaning_for_the_reader_have_no_events() -> None:
    row = reader()
    assert events(row, [LAYOUT.eos_id, LAYOUT.separator_id, LAYOUT.bos_id]) == []
    assert list(row.finish("stop")) == [Finished(7, "stop", [])]


def test_reprs_are_short() -> None:
    picture: Any = SimpleNamespace(size=(512, 256))
    codes = tuple(range(1024))
    assert (
        repr(ImageFinished(0, picture, codes)) == "ImageFinished(row=0, image=<512 × 256 pixels>, codes=<1024 codes>)"
    )
    progress = "ImageProgress(row=0, codes_done=3, num_codes=4, preview="
    assert repr(ImageProgress(0, 3, 4, None)) == f"{progress}None)"
    assert repr(ImageProgress(0, 3, 4, picture)) == f"{progress}<512 × 256 pixels>)"
    document: Any = [Text("A picture: "), Image(picture, codes)]
    assert repr(Finished(0, "stop", document)) == "Finished(row=0, reason='stop', document=<Text, Image>)"
    assert repr(Finished(1, "length", [])) == "Finished(row=1, reason='length', document=<empty>)"
