"""Segments, and documents from what people write."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given

from chameleon_text import Document, DocumentError, Image, Text, as_document, normalized
from chameleon_text.testing import documents


def test_what_people_write_becomes_segments() -> None:
    picture = PIL.Image.new("RGB", (2, 2))
    pixels = np.zeros((2, 2, 3), np.uint8)
    segment = Image(codes=(1,))
    assert as_document(["Draw ", picture, Path("a.png"), pixels, segment]) == [
        Text("Draw "),
        Image(picture),
        Image(Path("a.png")),
        Image(pixels),
        segment,
    ]
    assert as_document("text") == [Text("text")]
    assert as_document(segment) == [segment]


@pytest.mark.parametrize("value", [3, None, {"type": "text"}, [["nested"]], b"bytes"])
def test_what_is_no_segment_is_an_error(value: object) -> None:
    with pytest.raises(DocumentError, match="a document is made of"):
        as_document(value)


@given(documents())
def test_the_normal_form_has_no_empty_and_no_adjacent_texts(document: Document) -> None:
    normal = normalized(document)
    assert normalized(normal) == normal
    kinds = [type(segment) for segment in normal]
    assert (Text, Text) not in list(itertools.pairwise(kinds))
    assert Text("") not in normal
    assert "".join(each.text for each in normal if isinstance(each, Text)) == "".join(
        each.text for each in document if isinstance(each, Text)
    )


def test_documents_are_read_while_another_thread_imports_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", types.ModuleType("PIL.Image"))
    assert as_document(["a", Path("a.png")]) == [Text("a"), Image(Path("a.png"))]


def test_codes_are_kept_as_a_tuple_of_integers() -> None:
    image = Image(codes=np.array([3, 1], np.uint16))  # type: ignore[arg-type]
    assert image.codes == (3, 1)
    assert all(type(code) is int for code in image.codes)
    assert Image(codes=[]).codes == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", [[[1]], [1.5], [-1], ["a"]])
def test_impossible_codes_are_an_error(codes: object) -> None:
    with pytest.raises(DocumentError, match="a picture's codes must be"):
        Image(codes=codes)  # type: ignore[arg-type]


def test_pictures_are_equal_by_codes_and_pixels() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert Image(pixels) == Image(pixels.copy())
    assert Image(pixels) != Image(pixels + 1)
    assert Image(pixels) != Image("a.png")
    assert Image(codes=(1,)) != Image(codes=(2,))
    assert hash(Image(pixels, (1,))) == hash(Image(pixels, (1,)))
    assert Image() != Text("")


@pytest.mark.parametrize("value", [3, b"bytes", ["a.png"]])
def test_an_impossible_picture_is_an_error(value: object) -> None:
    with pytest.raises(DocumentError, match="Image holds"):
        Image(value)


def test_an_impossible_text_is_an_error() -> None:
    with pytest.raises(DocumentError, match="Text holds a str"):
        Text(3)  # type: ignore[arg-type]


def test_an_unknown_or_missing_field_of_a_segment_is_a_document_error() -> None:
    with pytest.raises(DocumentError, match=r"Text has no field 'tex'\. Did you mean 'text'\?"):
        Text(tex="a")  # type: ignore[call-arg]
    with pytest.raises(DocumentError, match=r"Text\(text\) can't be made: Missing required argument 'text'"):
        Text()  # type: ignore[call-arg]
