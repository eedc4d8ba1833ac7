"""The tests that every segment codec passes: inherit the class, name the codec, return some segments, run pytest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..codecs import CodecContext
from ..documents import document_from_json, document_from_parts, document_to_json, document_to_parts
from ..errors import DocumentError
from ..hookspecs import HOOK_API_VERSION, SegmentCodecSpec
from ..processor import ChameleonProcessor
from ..registry import segment_codec_spec, segment_codec_specs
from ..segment_grammar import OpenSegment, SegmentGrammar
from ..segments import Document, Segment, Text, normalized
from .conformance import Conformance
from .strategies import documents, written_segments
from .subject import LAW, Subject, make_context


class _Step(NamedTuple):
    """One id of a segment, and the state before it."""

    segment: OpenSegment
    token_id: int


class _Walk(NamedTuple):
    """A segment that a grammar lets come."""

    begin_id: int
    room: int
    steps: list[_Step]

    @property
    def ids(self) -> list[int]:
        return [self.begin_id, *(step.token_id for step in self.steps)]


class SegmentCodecConformance(Conformance, Subject):
    """The contract of ``SegmentCodec``, as tests.

    A subclass says which codec it tests: its name, the special tokens that it needs, and some segments in their normal
    form::

        class TestAudioCodec(SegmentCodecConformance):
            name = "audio"
            more_specials = ("<audio>", "</audio>", *(f"<audio_{code}>" for code in range(16)))

            def segments(self):
                return [Audio(codes=(1, 2, 3)), Audio(codes=())]

    The codec is looked up as a processor would, so its plugin must be installed.
    """

    def segments(self) -> Sequence[Segment]:
        """Return segments of the codec's type in their normal form: typical ones, the smallest one, odd ones."""
        raise TypeError(f"{type(self).__name__} must have a method segments() that returns some to test with.")

    def drawn_segments(self) -> st.SearchStrategy[Segment]:
        """Return a hypothesis strategy of segments in their normal form, by default those of ``segments``."""
        return st.sampled_from(self.segments())

    @pytest.fixture
    def spec(self) -> SegmentCodecSpec:
        """The spec that the hook returned."""
        return segment_codec_spec(self.name)

    @pytest.fixture
    def codec(self, spec: SegmentCodecSpec, context: CodecContext) -> Any:
        """The codec under test."""
        reason = spec.why_unsupported(context)
        if reason is not None:
            pytest.fail(f"{self.name!r} can't be used with the suite's vocabulary, so nothing was tested: {reason}")
        return spec.make(context)

    @pytest.fixture
    def processor(self, context: CodecContext) -> ChameleonProcessor:
        """A processor with every codec that is installed."""
        return ChameleonProcessor(context.tokenizer, image_tokenizer=context.image_tokenizer)

    # How it is registered.

    def test_the_spec_says_what_it_is_and_for_which_hooks(self, spec: SegmentCodecSpec) -> None:
        assert spec.api_version == HOOK_API_VERSION
        assert spec.summary, "the spec has no summary for the listing"

    def test_it_can_run_here(self, spec: SegmentCodecSpec) -> None:
        assert spec.why_unavailable() is None, "the suite runs where the codec can"

    def test_a_vocabulary_without_its_tokens_is_refused_by_a_sentence(self, spec: SegmentCodecSpec) -> None:
        if not self.more_specials:
            pytest.skip("it needs no tokens beside those of every vocabulary")
        reason = spec.why_unsupported(make_context())
        assert reason is not None, "the vocabulary lacks its tokens, and unsupported() doesn't say so"
        assert reason.strip()

    # Its segments.

    def test_segments_are_of_the_declared_type(self, spec: SegmentCodecSpec) -> None:
        assert self.segments()
        assert all(type(segment) is spec.segment for segment in self.segments())

    def test_a_segment_can_be_shared_and_be_a_key(self) -> None:
        for segment in self.segments():
            assert {segment: 1}[segment] == 1

    # Its ids.

    def test_its_ids_are_of_the_vocabulary_and_of_no_other_codec(self, codec: Any, context: CodecContext) -> None:
        ids = set(codec.ids)
        assert ids
        assert ids <= context.tokenizer.names.keys(), "an id that the vocabulary doesn't have"
        for other in segment_codec_specs():
            if other.name == self.name:
                continue
            try:
                others = set() if other.why_unsupported(context) is not None else set(other.make(context).ids)
            except KeyboardInterrupt:
                raise
            except BaseException:  # another plugin's fault, which its own suite shows
                continue
            assert ids.isdisjoint(others), f"the codec {other.name!r} has some of its ids"

    def test_every_id_that_is_written_belongs_to_the_codec(self, codec: Any) -> None:
        @LAW
        @given(self.drawn_segments())
        def law(segment: Segment) -> None:
            (ids,) = codec.encode([segment])
            assert set(ids) <= set(codec.ids)

        law()

    # There and back.

    def test_segments_encoded_together_are_as_if_encoded_alone(self, codec: Any) -> None:
        segments = self.segments()
        together = [list(ids) for ids in codec.encode(segments)]
        assert together == [list(codec.encode([segment])[0]) for segment in segments]

    def test_encoding_twice_gives_the_same_ids(self, codec: Any) -> None:
        first, second = ([list(ids) for ids in codec.encode(self.segments())] for _ in range(2))
        assert first == second

    def test_nothing_to_encode_gives_nothing(self, codec: Any) -> None:
        assert list(codec.encode([])) == []

    def test_decoding_what_was_encoded_gives_the_same_segment(self, codec: Any) -> None:
        @LAW
        @given(self.drawn_segments())
        def law(segment: Segment) -> None:
            (ids,) = codec.encode([segment])
            if len(ids):
                assert codec.decode(ids, 0) == (segment, len(ids))

        law()

    def test_a_segment_is_found_amid_text(self, processor: ChameleonProcessor) -> None:
        for segment in self.segments():
            document = [Text("before"), segment, Text("after")]
            assert processor.decode_document(processor.encode(document)) == document

    def test_a_document_comes_back_whatever_stands_beside_what(self, processor: ChameleonProcessor) -> None:
        @LAW
        @given(documents(segments=[self.drawn_segments()]))
        def law(document: Document) -> None:
            assert processor.decode_document(processor.encode(document)) == normalized(document)

        law()

    # What a model may write.

    def test_any_ids_of_the_codec_are_read_without_an_error(self, codec: Any, spec: SegmentCodecSpec) -> None:
        @LAW
        @given(self._streams(codec), st.data())
        def law(ids: list[int], data: st.DataObject) -> None:
            start = data.draw(st.integers(0, len(ids) - 1))
            decoded = codec.decode(ids, start)
            assert start < decoded.end <= len(ids)
            assert type(decoded.segment) is spec.segment

        law()

    def test_what_was_read_is_in_normal_form(self, codec: Any) -> None:
        @LAW
        @given(self._streams(codec))
        def law(ids: list[int]) -> None:
            segment = codec.decode(ids, 0).segment
            (again,) = codec.encode([segment])
            if len(again):
                assert codec.decode(again, 0).segment == segment

        law()

    def _streams(self, codec: Any) -> st.SearchStrategy[list[int]]:
        """Return a strategy of ids of the codec in any order, and of segments that were cut off."""
        anything = st.lists(st.sampled_from(sorted(codec.ids)), min_size=1, max_size=12)
        whole = self.drawn_segments().map(lambda segment: list(codec.encode([segment])[0]))
        cut_off = whole.filter(len).flatmap(lambda ids: st.integers(1, len(ids)).map(lambda end: ids[:end]))
        return anything | cut_off

    # What its grammar lets a model write, where it has one.

    @pytest.fixture
    def grammar(self, codec: Any) -> SegmentGrammar:
        """The codec's grammar. A test that asks for it is skipped where the codec has none."""
        grammar = getattr(codec, "grammar", None)
        if grammar is None:
            pytest.skip("the codec has no grammar, so its segments are only read")
        return grammar

    def test_a_processor_offers_the_grammar(
        self, grammar: SegmentGrammar, codec: Any, context: CodecContext, spec: SegmentCodecSpec
    ) -> None:
        processor = ChameleonProcessor(context.tokenizer, segment_codecs={self.name: codec})
        offered = processor.segment_grammars[self.name]
        assert offered.begin_ids == grammar.begin_ids
        for begin_id in offered.begin_ids:
            offered.open(begin_id)

    def test_a_segment_ends_in_its_room(self, grammar: SegmentGrammar) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            for spare in (0, 1, data.draw(st.integers(2, 12))):
                walk = _drawn(data, grammar, spare=spare)
                assert len(walk.steps) <= walk.room

        law()

    def test_what_may_come_are_ids_of_the_codec_and_none_that_begins(self, grammar: SegmentGrammar, codec: Any) -> None:
        inner = set(codec.ids).difference(grammar.begin_ids)
        assert set(grammar.begin_ids) <= set(codec.ids)

        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            for segment, _ in _drawn(data, grammar).steps:
                assert isinstance(segment.next_ids, tuple)
                assert segment.next_ids, "nothing may come next"
                assert len(set(segment.next_ids)) == len(segment.next_ids), "an id is listed twice"
                assert inner.issuperset(segment.next_ids), "an id that isn't the codec's, or begins a segment"

        law()

    def test_what_is_left_of_a_segment_is_what_comes(self, grammar: SegmentGrammar) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            steps = _drawn(data, grammar).steps
            for place, (segment, _) in enumerate(steps):
                left = len(steps) - place
                assert 1 <= segment.least_ids_left <= left
                assert segment.ids_left is None or segment.ids_left >= left

        law()

    def test_more_room_allows_no_less(self, grammar: SegmentGrammar) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            walk = _drawn(data, grammar)
            for room in (walk.room, walk.room + 1, walk.room + 12, None):
                assert _accepts(grammar, walk.ids, room), f"what may come in a room of {walk.room} may not in {room}"

        law()

    def test_an_open_segment_never_changes(self, grammar: SegmentGrammar) -> None:
        @LAW
        @given(st.data())
        def law(data: st.DataObject) -> None:
            walk = _drawn(data, grammar)
            again = grammar.open(walk.begin_id, walk.room)
            seen = [_seen(segment) for segment, _ in walk.steps]
            for (segment, token_id), then in zip(walk.steps, seen, strict=True):
                assert again is not None, "the same ids end the segment earlier the second time"
                assert _seen(again) == then == _seen(segment)
                other = data.draw(st.sampled_from(segment.next_ids))
                again.accept(other)  # on trial, and taken back
                assert _seen(again) == then, "accept changed the segment"
                again = again.accept(token_id)
            assert again is None

        law()

    def test_a_segment_that_was_written_is_read_whole(
        self, grammar: SegmentGrammar, codec: Any, spec: SegmentCodecSpec, context: CodecContext
    ) -> None:
        after = context.tokenizer.encode("the apple")

        @LAW
        @given(written_segments(grammar))
        def law(ids: list[int]) -> None:
            segment, end = codec.decode([*ids, *after], 0)
            assert type(segment) is spec.segment
            assert end == len(ids), "the codec reads another end than the grammar says"
            (again,) = codec.encode([segment])
            assert codec.decode(again, 0) == (segment, len(again))

        law()

    def test_what_is_encoded_may_be_written(self, grammar: SegmentGrammar, codec: Any) -> None:
        @LAW
        @given(self.drawn_segments())
        def law(segment: Segment) -> None:
            (ids,) = codec.encode([segment])
            assert _accepts(grammar, ids, None)

        law()

    # JSON.

    def test_a_segment_survives_json(self) -> None:
        for segment in self.segments():
            assert document_from_json(document_to_json([segment])) == [segment]

    def test_a_segment_is_a_part_of_plain_json_under_the_name_of_its_codec(self) -> None:
        for segment in self.segments():
            (part,) = document_to_parts([segment])
            assert part["type"] == self.name
            assert json.loads(json.dumps(part)) == part

    def test_a_part_that_is_not_understood_is_a_document_error(self, spec: SegmentCodecSpec) -> None:
        names = ("no such field", *spec.segment.__struct_fields__)
        for name in names:
            try:
                (segment,) = document_from_parts([{"type": self.name, name: object()}])
            except DocumentError:
                continue
            assert type(segment) is spec.segment


def _drawn(data: st.DataObject, grammar: SegmentGrammar, *, spare: int | None = None) -> _Walk:
    """Return a segment, each id drawn from what may come, with room for ``spare`` ids more than the shortest has."""
    begin_id = data.draw(st.sampled_from(grammar.begin_ids))
    opened = grammar.open(begin_id, None)
    room = 0 if opened is None else opened.least_ids_left
    room += data.draw(st.integers(0, 12)) if spare is None else spare
    walk = _Walk(begin_id, room, [])
    segment = grammar.open(begin_id, room)
    while segment is not None:
        assert len(walk.steps) < room, f"the segment doesn't end within {room} ids"
        walk.steps.append(_Step(segment, data.draw(st.sampled_from(segment.next_ids))))
        segment = segment.accept(walk.steps[-1].token_id)
    return walk


def _accepts(grammar: SegmentGrammar, ids: Sequence[int], room: int | None) -> bool:
    """Return whether a grammar lets ids come, one after the other, as a whole segment."""
    if not len(ids) or ids[0] not in grammar.begin_ids:
        return False
    segment = grammar.open(ids[0], room)
    for token_id in ids[1:]:
        if segment is None or token_id not in segment.next_ids:
            return False
        segment = segment.accept(token_id)
    return segment is None


def _seen(segment: OpenSegment) -> tuple[Any, ...]:
    return segment.next_ids, segment.least_ids_left, segment.ids_left
