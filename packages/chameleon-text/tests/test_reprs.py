"""What people see: reprs of a line or a few, and documents as a notebook shows them."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chameleon_text
from chameleon_text import (
    ChameleonProcessor,
    Document,
    Image,
    Results,
    Segment,
    Special,
    Text,
    TextTokenizer,
    TrainingExample,
)
from chameleon_text.codecs import CodecContext, ImageCodec, TextCodec
from chameleon_text.templates import Chat, Completion
from chameleon_text.testing import FakeImageTokenizer, documents, make_tokenizer, texts
from chameleon_text.tokenizer import StreamDecoder
from chameleon_text.vocabulary import Vocabulary, is_special_name


def test_a_tokenizer_and_its_vocabulary_are_counted(tokenizer: TextTokenizer) -> None:
    assert repr(tokenizer) == (
        "TextTokenizer(363 tokens: 64 picture codes, 9 special: "
        "<s>, <pad>, </s>, <unk>, <eoss>, <racm3:break>, <sentinel:0>, <reserved08706>, …)"
    )
    vocabulary = ChameleonProcessor(tokenizer).vocabulary
    assert repr(vocabulary) == "Vocabulary(363 ids: 64 picture codes, 290 text, 9 special)"


def test_a_processor_says_how_it_reads_pictures(tokenizer: TextTokenizer) -> None:
    shown = repr(ChameleonProcessor(tokenizer, image_tokenizer=FakeImageTokenizer()))
    assert shown.splitlines()[0] == "ChameleonProcessor("
    assert "pictures: read by FakeImageTokenizer, 4 ids each, '<image>' in a prompt" in shown
    assert "template: 'chat', padding on the left" in shown
    assert "pictures: not read, 1,024 ids each" in repr(ChameleonProcessor(tokenizer))


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (Text("Look: "), "Text(text='Look: ')"),
        (Special("</s>"), "Special(name='</s>')"),
        (Image(), "Image()"),
        (Image(codes=(7, 1, 0, 3)), "Image(codes=(7, 1, 0, 3))"),
        (Image(codes=tuple(range(1024))), "Image(codes=<1,024 codes>)"),
        (Image(Path("cat.png")), "Image('cat.png')"),
        (Image(np.zeros((4, 6, 3), np.uint8)), "Image(<ndarray of shape (4, 6, 3)>)"),
        (Image(PIL.Image.new("RGB", (6, 4)), (1, 2)), "Image(<Image of 6×4 pixels>, codes=(1, 2))"),
    ],
)
def test_a_segment_shows_what_it_is(segment: Segment, expected: str) -> None:
    assert repr(segment) == expected


def test_long_texts_documents_and_examples_are_shortened() -> None:
    assert len(repr(Text("a" * 10_000))) < 100
    shown = repr(Document([Text("a")] * 50))
    assert shown.startswith("Document([Text(text='a'), ")
    assert shown.endswith(", … 30 more])")
    assert repr(TrainingExample([1, 2, 3], [-100, 2, 3])) == "TrainingExample(3 ids, 2 of them trained on)"


@given(documents())
def test_a_document_is_a_list(document: Document) -> None:
    assert document == list(document)
    assert list(document) == document
    assert isinstance(document, list)


@given(texts())
def test_text_is_escaped_in_a_notebook(text: str) -> None:
    shown = Document([Text(f"<b>{text}</b>")])._repr_html_()
    assert shown.startswith('<div><span style="white-space: pre-wrap">&lt;b&gt;')
    assert shown.count("<") == shown.count(">") == 4


@given(st.text())
def test_a_name_of_a_file_is_escaped_in_a_notebook(name: str) -> None:
    assert Document([Image(f"{name}<script>")])._repr_html_().count("<") == 4


def test_pictures_are_shown_in_a_notebook(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    png = Image(pixels)._repr_png_()
    assert png is not None
    assert png == Image(PIL.Image.fromarray(pixels))._repr_png_()
    (tmp_path / "picture.png").write_bytes(png)
    assert (np.asarray(PIL.Image.open(tmp_path / "picture.png")) == pixels).all()
    document = Document([Text("a"), Image(pixels), Image(codes=(1, 2))])
    shown = document._repr_html_()
    assert shown.count('src="data:image/png;base64,') == 1
    assert "Image(codes=(1, 2))" in shown


@pytest.mark.parametrize(
    "image", [None, "missing.png", Path("missing.png"), np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 7))]
)
def test_what_has_no_pixels_to_show_is_shown_by_its_repr(image: Any) -> None:
    segment = Image(image)
    assert segment._repr_png_() is None
    assert "<code>Image(" in Document([segment])._repr_html_()


def size_of(png: bytes) -> tuple[int, int]:
    return PIL.Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "I;16", "RGB", "RGBA", "CMYK"])
def test_a_large_picture_is_reduced_for_a_notebook(mode: str) -> None:
    png = Image(PIL.Image.new(mode, (2048, 1024)))._repr_png_()
    assert png is not None
    assert size_of(png) == (512, 256)


def test_a_long_thin_picture_keeps_a_pixel() -> None:
    png = Image(np.zeros((1, 2000, 3), np.uint8))._repr_png_()
    assert png is not None
    assert size_of(png) == (512, 1)


def test_a_picture_has_its_size_and_a_text_for_those_who_dont_see_it() -> None:
    small, large = np.zeros((24, 32, 3), np.uint8), np.zeros((600, 1200, 3), np.uint8)
    shown = Document([Image(small, codes=(1, 2)), Image(large)])._repr_html_()
    assert '<img alt="picture of 32×24 pixels, 2 codes" width="128" height="96"' in shown
    assert '<img alt="picture of 1200×600 pixels" width="512" height="256"' in shown


def test_a_page_may_be_light_or_dark() -> None:
    shown = Results([Document([Text("a"), Image(np.zeros((2, 2, 3), np.uint8)), Image(codes=(1,))])])._repr_html_()
    assert not re.search(r"(?<![-\w])(color|background)", shown), "text and ground have the page's own colours"


def test_a_long_document_is_cut() -> None:
    shown = Document([Text("a" * 15_000), Text("b" * 15_000), Text("c")])._repr_html_()
    assert (shown.count("a" * 15_000), shown.count("b" * 5000), shown.count("b" * 5001)) == (1, 1, 0)
    assert " … 10,000 more characters" in shown
    assert " … 1 more character<" in shown
    shown = Document([Image(np.zeros((2, 2, 3), np.uint8))] * 70)._repr_html_()
    assert (shown.count("<img "), shown.count("<code>picture of 2×2 pixels<")) == (64, 6)


def test_a_batch_is_a_list_that_a_notebook_shows() -> None:
    picture = PIL.Image.new("RGB", (4, 4), "red")
    batch = Results([Document([Text("a & b"), Image(picture)]), picture, "plain"])
    assert batch == [Document([Text("a & b"), Image(picture)]), picture, "plain"]
    assert batch[2] == "plain"
    shown = batch._repr_html_()
    assert (shown.count("<figure "), shown.count("<img ")) == (3, 2)
    assert "a &amp; b" in shown
    assert repr(Results([Document([Text("a")])])) == "Results([Document([Text(text='a')])])"
    assert repr(Results("a" for _ in range(25))).endswith("'a', … 5 more])")
    assert Results()._repr_html_().count("<figure ") == 0


def test_a_long_batch_is_cut() -> None:
    shown = Results([Document([Text("a")])] * 100)._repr_html_()
    assert shown.count("<figure ") == 32
    assert "… 68 more" in shown


def test_what_is_no_document_is_shown_by_its_repr_in_a_batch() -> None:
    assert "<code>{&#x27;a&#x27;: 1}</code>" in Results([{"a": 1}])._repr_html_()


def test_a_picture_needs_no_pillow_to_be_described(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Image(np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert segment._repr_png_() is None
    assert "shape (2, 2, 3)" in Document([segment])._repr_html_()


def test_no_repr_has_an_address() -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_tokenizer=FakeImageTokenizer())
    example = processor.encode_for_training([{"role": "user", "content": "a"}])
    for value in (processor, processor.tokenizer, processor.vocabulary, example, processor(text="a")):
        assert " at 0x" not in repr(value)


def test_the_package_knows_its_version() -> None:
    assert chameleon_text.__version__ == importlib.metadata.version("chameleon-text")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("batch", "IGNORED", "IGNORE_INDEX"),
        ("registry", "SEGMENT_CODECS", "SEGMENT_CODECS_HOOK"),
        ("registry", "TEMPLATES", "TEMPLATES_HOOK"),
    ],
)
def test_old_names_still_work_with_a_warning(module: str, old: str, new: str) -> None:
    holder = getattr(chameleon_text, module)
    with pytest.warns(DeprecationWarning, match=f"{old} is chameleon_text.{module}.{new} now"):
        value = getattr(holder, old)
    with warnings.catch_warnings():
        assert value == getattr(holder, new)
    with pytest.raises(AttributeError, match="no attribute 'NO_SUCH_NAME'"):
        _ = holder.NO_SUCH_NAME


def test_templates_and_a_stream_have_no_address(tokenizer: TextTokenizer) -> None:
    assert repr(Chat()) == "Chat()"
    assert repr(Completion()) == "Completion()"
    stream = StreamDecoder(tokenizer)
    assert repr(stream) == "StreamDecoder(skip_special_tokens=False, bytes waiting: 0)"


def test_codecs_are_counted(tokenizer: TextTokenizer) -> None:
    vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
    context = CodecContext(tokenizer=tokenizer, vocabulary=vocabulary, image_tokenizer=None, image_seq_length=4)
    assert repr(TextCodec(context)) == f"TextCodec({len(vocabulary.text_ids):,} ids)"
    assert repr(ImageCodec(context)) == f"ImageCodec({vocabulary.num_codes:,} codes, 4 for each picture)"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("batch", "as_tensor", "batch.integers_as"),
        ("tokenizer", "BYTE_LETTERS", "tokenizer_file.BYTE_LETTERS"),
        ("processor", "PUBLISHED_SEQUENCE_LENGTH", "document_processor.PUBLISHED_SEQUENCE_LENGTH"),
    ],
)
def test_an_old_name_is_the_new_one(module: str, old: str, new: str) -> None:
    owner, _, name = f"chameleon_text.{new}".rpartition(".")
    with pytest.warns(DeprecationWarning, match=name):
        found = getattr(importlib.import_module(f"chameleon_text.{module}"), old)
    assert found is getattr(importlib.import_module(owner), name)


def test_is_special_name_still_works() -> None:
    with pytest.warns(DeprecationWarning, match="special_names"):
        assert is_special_name("<s>")
