"""Documents in JSON and in chat messages."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given

from chameleon_text import (
    ChameleonProcessor,
    Document,
    DocumentError,
    Image,
    ImageCountError,
    MissingPackageError,
    Piece,
    Segment,
    Special,
    Text,
    Turn,
    UnknownPluginError,
    document_from_json,
    document_from_parts,
    document_to_json,
    messages_from_turns,
    normalized,
    pictures,
    turns_from_messages,
)
from chameleon_text.testing import FakeImageTokenizer, documents, make_tokenizer
from chameleon_text.training import _joined


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
    part = {"type": "image"} | part
    assert document_from_parts([part], allow_files=True) == [Image(picture)]
    assert document_from_json(json.dumps([part]), allow_files=True) == [Image(picture)]
    message = {"role": "user", "content": [part]}
    assert turns_from_messages([message], allow_files=True)[0].document == (Image(picture),)
    for opens in (
        lambda: document_from_parts([part]),
        lambda: document_from_json(json.dumps([part])),
        lambda: turns_from_messages([message]),
        lambda: ChameleonProcessor(make_tokenizer()).encode_messages([message]),
        lambda: ChameleonProcessor(make_tokenizer()).encode_for_training([message]),
    ):
        with pytest.raises(DocumentError, match=r"part 0, .* names the file .*allow_files=True"):
            opens()


def test_a_path_object_is_the_callers_own() -> None:
    part = {"type": "image", "path": Path("a.png")}
    assert document_from_parts([part]) == [Image(Path("a.png"))]
    assert document_from_parts([{"type": "image"}], images=["a.png"]) == [Image("a.png")]


def test_a_path_beside_codes_is_a_name_that_nothing_opens() -> None:
    (segment,) = document_from_json('[{"type": "image", "codes": [3], "path": "/no/such/file.png"}]')
    processor = ChameleonProcessor(make_tokenizer(), image_tokenizer=FakeImageTokenizer())
    assert processor.decode_document(processor.encode([segment])) == [Image(codes=(3,))]
    assert processor.draw([segment]) == [segment]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image", "pth": "a.png"}, "unknown field 'pth'. Did you mean 'path'"),
        ({"type": "image", "base46": "aa", "codes": [1]}, "unknown field 'base46'. Did you mean 'base64'"),
        ({"type": "image_url", "image_url": {"url": "a.png", "size": 3}}, "'size'.*, expected 'url' alone"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}, "a detail, expected 'url' alone"),
        ({"type": "text", "text": "a", "tekst": "b"}, "unknown field 'tekst'. Did you mean 'text'"),
        ({"type": "text", "text": "a", 3: "b"}, "unknown field 3"),
        ({"type": "x" * 10_000}, "a type of 10,000 characters"),
        ({"type": "image", "url": "http://[a"}, "the URL of a picture is not one"),
    ],
)
def test_a_field_that_would_be_ignored_is_an_error(part: dict[Any, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        document_from_parts([part], allow_files=True)


def test_a_field_that_is_null_says_nothing() -> None:
    parts = [{"type": "text", "text": "a", "image": None}, {"type": "image", "text": None, "image": None}]
    assert document_from_parts(parts, images=["a.png"]) == [Text("a"), Image("a.png")]


def test_a_field_of_a_message_that_would_be_ignored_is_an_error() -> None:
    with pytest.raises(DocumentError, match=r"message 0 has an unknown field 'contents'\. Did you mean 'content'"):
        turns_from_messages([{"role": "user", "content": "a", "contents": "b"}])
    assert turns_from_messages([{"role": "user", "content": "a", "name": None}]) == [Turn("user", (Text("a"),))]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '[{"type": "text", "text": ' + "[" * 200 + "]" * 200 + "}]",
        '[{"type": "image", "codes": [' + "9" * 5000 + "]}]",
        '[{"type": "image", "codes": [NaN]}]',
        '[{"type": "image", "codes": [99999999999999999999]}]',
        '[{"type": "image", "codes": [1.5]}]',
        '[{"type": "image", "codes": [true]}]',
        '[{"type": "image", "codes": [[1], [1, 2]]}]',
        '[{"type": "image", "image_url": {"url": 3}}]',
        '[{"type": "image", "url": []}]',
        '[{"type": "text", "text": "\\ud800"}]',
        b'[{"type": "text", "text": "\xed\xa0\x80"}]',
        "\ufeff3",
        "[null]",
        "[[]]",
        '[{"type": "text"}]',
        '[{"type": "text", "text": null}]',
        "null",
        "NaN",
        None,
        3,
    ],
)
def test_whatever_is_read_raises_this_packages_errors(text: Any) -> None:
    with pytest.raises(DocumentError):
        document_from_json(text)


def test_a_byte_order_mark_is_skipped() -> None:
    assert document_from_json(b'\xef\xbb\xbf[{"type": "text", "text": "a"}]') == [Text("a")]


@pytest.mark.parametrize(
    "content", ["root:x:0:0:root:/root:/bin/bash\n", '["a-secret", {"a-secret": 1}]', '{"a-secret": 1}']
)
def test_an_error_quotes_nothing_of_a_file_that_is_no_document(content: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document_from_json(content)
    assert "secret" not in str(caught.value)
    assert "root" not in str(caught.value)


@pytest.mark.parametrize("messages", [None, "text", {"role": "user"}, 3, [None], [{"role": "user", "content": [3]}]])
def test_messages_of_another_shape_are_errors(messages: Any) -> None:
    for reads in (turns_from_messages, ChameleonProcessor(make_tokenizer()).encode_messages):
        with pytest.raises(DocumentError):
            reads(messages)


@pytest.mark.parametrize(
    "picture", [PIL.Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8), Path("a.png"), "a.png"]
)
def test_one_picture_needs_no_list(picture: Any) -> None:
    (segment,) = document_from_parts([{"type": "image"}], images=picture)
    assert isinstance(segment, Image)
    assert segment.image is picture
    with pytest.raises(DocumentError, match="images is a int"):
        document_from_parts([], images=3)  # type: ignore[arg-type]


def test_half_a_surrogate_pair_is_not_written() -> None:
    with pytest.raises(DocumentError, match="half of a surrogate pair"):
        document_to_json([Text("a\ud800")])


def test_postscript_is_not_read_from_a_document() -> None:
    data = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\n").decode()
    with pytest.raises(DocumentError, match="no picture that can be read"):
        document_from_parts([{"type": "image", "base64": data}])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Special(3),  # type: ignore[arg-type]
        lambda: Turn("user", "text"),  # type: ignore[arg-type]
        lambda: Turn(3, ()),  # type: ignore[arg-type]
        lambda: Image(codes=5),  # type: ignore[arg-type]
        lambda: Image(codes=[[1], [1, 2]]),  # type: ignore[arg-type]
    ],
)
def test_parts_of_wrong_types_are_errors(make: Any) -> None:
    with pytest.raises(DocumentError):
        make()


def test_time_is_linear_in_the_parts_of_a_document() -> None:
    def seconds(count: int) -> float:
        document = [Text("the red apple " * 20)] * count
        start = time.process_time()
        normalized(document)
        _joined([Piece(segment) for segment in document])
        return time.process_time() - start

    seconds(100)
    assert min(seconds(48_000) for _ in range(2)) < 12 * min(seconds(12_000) for _ in range(2)) + 0.2


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


def test_an_error_of_an_error_has_one_period(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise TypeError("expected an int.")

    monkeypatch.setattr("chameleon_text.documents.json.dumps", refuse)
    with pytest.raises(DocumentError, match=r"can't hold: expected an int\.$"):
        document_to_json(["a"])
