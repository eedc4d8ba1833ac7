"""The tests that every segment codec passes. Inherit the class, fill in the three methods, run pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..codecs import CodecContext
from ..documents import document_from_json, document_to_json
from ..processor import ChameleonProcessor
from ..registry import segment_codec_spec
from ..segments import Segment, Text
from ..vocabulary import Vocabulary
from .image_tokenizer import FakeImageTokenizer
from .tokenizers import make_tokenizer

LAW = settings(max_examples=25, deadline=None, derandomize=True)


class SegmentCodecConformance:
    """The contract of ``SegmentCodec``, as tests.

    A subclass says which codec it is about: its name, the special tokens that it needs, and some segments in their
    normal form::

        class TestAudioCodec(SegmentCodecConformance):
            name = "audio"
            more_specials = ("<audio>", "</audio>", *(f"<audio_{code}>" for code in range(16)))

            def segments(self):
                return [Audio(codes=(1, 2, 3)), Audio(codes=())]

    A test that doesn't apply is named in ``not_applicable`` with the reason, and then skipped with it; replacing or
    deleting one is an error.
    """

    name: ClassVar[str]
    more_specials: ClassVar[Sequence[str]] = ()
    not_applicable: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        tests = {name for name in vars(SegmentCodecConformance) if name.startswith("test_")}
        replaced = sorted(name for name in tests if getattr(cls, name) is not getattr(SegmentCodecConformance, name))
        unknown = sorted(set(cls.not_applicable) - tests)
        if replaced or unknown:
            raise TypeError(
                f"{cls.__name__} replaces {replaced} and excludes the unknown {unknown}: a standard test is left out "
                "by naming it in not_applicable with the reason."
            )

    def segments(self) -> Sequence[Segment]:
        """Segments of the codec's type in their normal form: typical ones, the smallest one, odd ones."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _leave_out(self, request: pytest.FixtureRequest) -> None:
        reason = self.not_applicable.get(request.node.originalname)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    def context(self) -> CodecContext:
        tokenizer = make_tokenizer(more_specials=self.more_specials)
        image_tokenizer = FakeImageTokenizer()
        return CodecContext(
            tokenizer=tokenizer,
            vocabulary=Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids),
            image_tokenizer=image_tokenizer,
            image_seq_length=image_tokenizer.tokens_per_image,
        )

    @pytest.fixture
    def codec(self, context: CodecContext) -> Any:
        spec = segment_codec_spec(self.name)
        assert spec.unsupported(context) is None
        return spec.factory(context)

    @pytest.fixture
    def processor(self, context: CodecContext) -> ChameleonProcessor:
        return ChameleonProcessor(context.tokenizer, image_tokenizer=context.image_tokenizer)

    def test_segments_are_of_the_declared_type(self) -> None:
        assert self.segments()
        assert all(type(segment) is segment_codec_spec(self.name).segment for segment in self.segments())

    def test_the_spec_answers_without_a_context(self) -> None:
        assert segment_codec_spec(self.name).unsupported(None) is None

    def test_every_id_that_is_written_belongs_to_the_codec(self, codec: Any) -> None:
        for ids in codec.encode(self.segments()):
            assert set(ids) <= set(codec.ids)

    def test_segments_encoded_together_are_as_if_encoded_alone(self, codec: Any) -> None:
        segments = self.segments()
        together = [list(ids) for ids in codec.encode(segments)]
        assert together == [list(codec.encode([segment])[0]) for segment in segments]

    def test_nothing_to_encode_gives_nothing(self, codec: Any) -> None:
        assert list(codec.encode([])) == []

    def test_decoding_what_was_encoded_gives_the_same_segment(self, codec: Any) -> None:
        for segment, ids in zip(self.segments(), codec.encode(self.segments()), strict=True):
            if ids:
                assert codec.decode(ids, 0) == (segment, len(ids))

    def test_a_segment_is_found_amid_text(self, processor: ChameleonProcessor) -> None:
        for segment in self.segments():
            document = [Text("before"), segment, Text("after")]
            assert processor.decode_document(processor.encode(document)) == document

    def test_any_ids_of_the_codec_are_read_without_an_error(self, codec: Any) -> None:
        @LAW
        @given(st.lists(st.sampled_from(sorted(codec.ids)), min_size=1, max_size=12), st.data())
        def law(ids: list[int], data: st.DataObject) -> None:
            start = data.draw(st.integers(0, len(ids) - 1))
            decoded = codec.decode(ids, start)
            assert start < decoded.end <= len(ids)
            assert type(decoded.segment) is segment_codec_spec(self.name).segment

        law()

    def test_a_segment_survives_json(self) -> None:
        for segment in self.segments():
            assert document_from_json(document_to_json([segment])) == [segment]
