"""Documents in JSON and in chat messages."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given

from chameleon_text import (
    Document,
    DocumentError,
    Image,
    ImageCountError,
    MissingPackageError,
    Segment,
    Special,
    Text,
    Turn,
    UnknownPluginError,
    document_from_json,
    document_from_parts,
    document_to_json,
    messages_from_turns,
    pictures,
    turns_from_messages,
)
from chameleon_text.testing import documents


def png(mode: str = "RGB", size: tuple[int, int] = (3, 2)) -> str:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, 7).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@given(documents())
def test_a_document_survives_json(document: Document) -> None:
    assert document_from_json(document_to_json(document)) == document
    assert document_from_json(document_to_json(document).encode()) == document


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pixels_survive_json(mode: str) -> None:
    picture = PIL.Image.effect_noise((5, 4), 60).convert(mode)
    (again,) = document_from_json(document_to_json([picture]))
    assert isinstance(again, Image)
    assert (again.image.mode, again.image.tobytes()) == (picture.mode, picture.tobytes())


def test_pixels_that_png_cannot_hold_are_written_in_rgb() -> None:
    (again,) = document_from_json(document_to_json([PIL.Image.new("CMYK", (2, 2))]))
    assert isinstance(again, Image)
    assert again.image.mode == "RGB"


def test_an_array_is_written_as_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (again,) = document_from_json(document_to_json([pixels]))
    assert isinstance(again, Image)
    assert np.array_equal(np.asarray(again.image), pixels)


def test_a_picture_is_written_as_its_codes_or_its_path() -> None:
    document = [Image(PIL.Image.new("RGB", (2, 2)), (1, 2)), Image("a.png"), Image(Path("b.png"), (3,)), Image()]
    assert json.loads(document_to_json(document)) == [
        {"type": "image", "codes": [1, 2]},
        {"type": "image", "path": "a.png"},
        {"type": "image", "codes": [3], "path": "b.png"},
        {"type": "image", "codes": None},
    ]


@pytest.mark.parametrize("text", ["", "{", b"\xff", '{"type": "text"}', '"text"'])
def test_json_that_is_no_document_is_an_error(text: str | bytes) -> None:
    with pytest.raises(DocumentError, match="a document must be a JSON array"):
        document_from_json(text)


@pytest.mark.parametrize("part", [3, {"text": "a"}, {"type": 1}])
def test_a_part_without_a_type_is_an_error(part: object) -> None:
    with pytest.raises(DocumentError, match=r"part 0 is .*expected an object with a 'type'"):
        document_from_parts([part])


def test_a_part_with_wrong_fields_is_an_error() -> None:
    with pytest.raises(DocumentError, match=r"part 0, of type 'text', isn't understood: .*str"):
        document_from_parts([{"type": "text", "text": 3}])


def test_a_part_of_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(UnknownPluginError, match=r"no segment codec named 'imagge'.*Did you mean 'image'"):
        document_from_parts([{"type": "imagge"}])


def test_a_segment_of_an_unknown_type_is_an_error() -> None:
    class Smell(Segment, frozen=True):
        pass

    for segment in (Smell(), Special("</s>")):
        with pytest.raises(DocumentError, match=r"no installed codec is for (Smell|Special) segments.*text \(Text\)"):
            document_to_json([segment])


@pytest.mark.parametrize(
    ("part", "picture"),
    [
        ({"image": "a.png"}, "a.png"),
        ({"path": "a.png"}, "a.png"),
        ({"url": "a.png"}, "a.png"),
        ({"url": "file:///tmp/a%20b.png"}, Path("/tmp/a b.png")),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "a.png"),
    ],
)
def test_the_usual_names_of_a_picture_are_read(part: dict[str, Any], picture: object) -> None:
    assert document_from_parts([{"type": "image"} | part]) == [Image(picture)]


@pytest.mark.parametrize("part", [{"base64": png()}, {"url": f"data:image/png;base64,{png()}"}])
def test_a_picture_in_base64_is_read(part: dict[str, Any]) -> None:
    (segment,) = document_from_parts([{"type": "image"} | part])
    assert isinstance(segment, Image)
    assert segment.image.size == (3, 2)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"base64": "%%%"}, "base64 is broken"),
        ({"base64": base64.b64encode(b"no picture").decode()}, "no picture that can be read"),
        ({"base64": base64.b64encode(base64.b64decode(png())[:-30]).decode()}, "no picture that can be read"),
        ({"base64": ""}, "no picture that can be read"),
        ({"base64": 3}, "must be a str, not int"),
        ({"url": "data:image/png,abc"}, "must be in base64"),
        ({"url": "https://example.org/a.png"}, "is on the network"),
        ({"path": "a.png", "url": "b.png"}, "several pictures: url, path"),
        ({"codes": "abc"}, "must be a list of integers, not str"),
        ({"codes": [-1]}, "integers ≥ 0"),
        ({"path": 3}, "Image holds"),
    ],
)
def test_a_picture_that_cannot_be_read_is_an_error(part: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        document_from_parts([{"type": "image"} | part])


def test_a_huge_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5)
    with pytest.raises(DocumentError, match="3×2 pixels; at most 5"):
        document_from_parts([{"type": "image", "base64": png()}])


@pytest.mark.parametrize("limit", [4, 2])
def test_a_decompression_bomb_is_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DocumentError, match="too large"):
        document_from_parts([{"type": "image", "base64": png()}])


def test_pixels_without_pillow_name_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"type": "image", "base64": png()}
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingPackageError, match="pip install pillow"):
        document_from_parts([part])


def test_messages_become_turns_and_come_back() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "codes": [1, 2]}]},
        {"role": "assistant", "content": "A cat."},
    ]
    turns = turns_from_messages(messages)
    assert turns == [
        Turn("user", (Text("What is this?"), Image(codes=(1, 2)))),
        Turn("assistant", (Text("A cat."),)),
    ]
    messages[1]["content"] = [{"type": "text", "text": "A cat."}]
    assert messages_from_turns(turns) == messages


def test_parts_that_are_only_an_image_take_the_pictures_in_order() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    turns = turns_from_messages([{"role": "user", "content": content}], images=["a.png", "b.png"])
    assert turns[0].document == (Image("a.png"), Text("and"), Image("b.png"))


@pytest.mark.parametrize(("images", "message"), [([], "more .* parts than pictures"), (["a", "b"], "1 of the images")])
def test_too_few_and_too_many_pictures_are_errors(images: list[str], message: str) -> None:
    with pytest.raises(ImageCountError, match=message):
        turns_from_messages([{"role": "user", "content": [{"type": "image"}]}], images=images)
    with pytest.raises(ImageCountError, match=message):
        document_from_parts([{"type": "image"}], images=images)


@pytest.mark.parametrize("message", ["text", {"content": "a"}, {"role": 1, "content": "a"}])
def test_a_message_without_a_role_is_an_error(message: Any) -> None:
    with pytest.raises(DocumentError, match=r"message 0 is .*expected"):
        turns_from_messages([message])


def test_a_message_without_content_is_an_error() -> None:
    with pytest.raises(DocumentError, match="content of message 0 is a NoneType"):
        turns_from_messages([{"role": "user"}])
