"""The tests that every template passes: inherit the class, name the template, run pytest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ..codecs import CodecContext
from ..errors import DocumentError
from ..hookspecs import HOOK_API_VERSION
from ..plugins import PluginSpec
from ..processor import ChameleonProcessor
from ..registry import REGISTRY, TEMPLATES_HOOK
from ..segments import Document, Segment, Special, Text
from ..templates import ASSISTANT, USER, Piece, Turn
from .conformance import Conformance
from .strategies import conversations, documents
from .subject import LAW, Subject


class TemplateConformance(Conformance, Subject):
    """The contract of ``Template``, as tests.

    A subclass has the name under which the template is registered::

        class TestAcme(TemplateConformance):
            name = "acme"

    A format with roles beyond the usual two lists them in ``roles``. One that accepts only some orders of turns
    overrides ``conversations``.
    """

    roles: ClassVar[Sequence[str]] = (USER, ASSISTANT)

    def conversations(self) -> st.SearchStrategy[list[Turn]]:
        """Return a strategy of conversations that the format can express."""
        return conversations(roles=self.roles)

    @pytest.fixture
    def spec(self) -> PluginSpec:
        """The spec that the hook returned."""
        return REGISTRY.get(TEMPLATES_HOOK, self.name)

    @pytest.fixture
    def template(self, spec: PluginSpec) -> Any:
        """The template under test."""
        reason = spec.why_unavailable()
        if reason is not None:
            pytest.fail(f"{self.name!r} isn't available here, so nothing was tested: {reason}")
        return spec.make()

    @pytest.fixture
    def processor(self, context: CodecContext) -> ChameleonProcessor:
        """A processor that uses the template."""
        return ChameleonProcessor(context.tokenizer, image_tokenizer=context.image_tokenizer, template=self.name)

    def test_the_spec_says_what_it_is_and_for_which_hooks(self, spec: PluginSpec) -> None:
        assert spec.api_version == HOOK_API_VERSION
        assert spec.summary, "the spec has no summary for the listing"

    # Turns to a stream.

    def test_every_segment_is_rendered_whole_and_in_order(self, template: Any) -> None:
        @LAW
        @given(self.conversations())
        def law(turns: list[Turn]) -> None:
            turns = _tagged(turns)
            assert None not in _places(_segments(turns), _stream(template.render(turns)))

        law()

    def test_answers_are_trained_on_and_questions_are_not(self, template: Any) -> None:
        @LAW
        @given(self.conversations())
        def law(turns: list[Turn]) -> None:
            turns = _tagged(turns)
            pieces = template.render(turns)
            places = iter(_places(_segments(turns), _stream(pieces)))
            for turn in turns:
                for _ in turn.document:
                    place = next(places)
                    assert place is not None
                    assert pieces[place].answer == (turn.role == ASSISTANT)
            if not any(turn.role == ASSISTANT for turn in turns):
                assert not any(piece.answer for piece in pieces)

        law()

    def test_what_ends_an_answer_is_trained_on(self, template: Any) -> None:
        """Without it, the model would never stop."""
        answer = Text("An answer.")
        pieces = template.render([Turn(USER, (Text("A question?"),)), Turn(ASSISTANT, (answer,))])
        assert pieces[-1].answer
        assert pieces[-1].segment != answer, "nothing ends the answer"

    def test_a_prompt_is_rendered_as_what_stands_before_its_answer(self, template: Any) -> None:
        """Generation continues what training has before an answer."""

        @LAW
        @given(self.conversations(), documents().map(tuple))
        def law(turns: list[Turn], document: tuple[Segment, ...]) -> None:
            assume(turns and turns[-1].role == USER)
            prompt = _stream(template.render(turns))
            assert _stream(template.render([*turns, Turn(ASSISTANT, document)]))[: len(prompt)] == prompt

        law()

    def test_rendering_twice_gives_the_same_stream(self, template: Any) -> None:
        @LAW
        @given(self.conversations())
        def law(turns: list[Turn]) -> None:
            assert template.render(turns) == template.render(turns)

        law()

    def test_a_role_that_it_does_not_have_is_a_document_error(self, template: Any) -> None:
        unknown = Text("Who am I?")
        try:
            pieces = template.render([Turn("no such role", (unknown,))])
        except DocumentError:
            return
        assert None not in _places([unknown], _stream(pieces)), "the turn is dropped silently"

    # And back.

    def test_a_conversation_comes_back_from_its_ids_turn_by_turn(self, processor: ChameleonProcessor) -> None:
        @LAW
        @given(self.conversations())
        def law(turns: list[Turn]) -> None:
            assert processor.decode_turns(processor.encode_messages(turns)) == turns

        law()

    def test_no_segment_is_lost_wherever_the_stream_is_cut_off(self, template: Any) -> None:
        @LAW
        @given(self.conversations(), st.data())
        def law(turns: list[Turn], data: st.DataObject) -> None:
            turns = _tagged(turns)
            stream = _stream(template.render(turns))
            end = data.draw(st.integers(0, len(stream)))
            said = _segments(turns)
            places = _places(said, stream)
            kept = [each for each, place in zip(said, places, strict=True) if place is not None and place < end]
            parsed = template.parse([Special("<s>"), *stream[:end]])
            assert None not in _places(kept, _segments(parsed))

        law()

    def test_any_stream_is_parsed_without_an_error(self, template: Any) -> None:
        names = ("<s>", "</s>", "<pad>", "<racm3:break>", "<eoss>", "<reserved08706>", *self.more_specials)
        specials = st.sampled_from(names).map(Special)

        @LAW
        @given(documents(segments=[specials]))
        def law(stream: Document) -> None:
            assert all(isinstance(turn, Turn) and turn.role for turn in template.parse(stream))

        law()


def _tagged(turns: Iterable[Turn]) -> list[Turn]:
    """Put a number before each text, so that it can't be taken for what a format puts around it."""
    tagged: list[Turn] = []
    for turn in turns:
        document = (
            Text(f"⟦{len(tagged)}.{number}⟧{segment.text}") if isinstance(segment, Text) else segment
            for number, segment in enumerate(turn.document)
        )
        tagged.append(Turn(turn.role, tuple(document)))
    return tagged


def _segments(turns: Iterable[Turn]) -> list[Segment]:
    return [segment for turn in turns for segment in turn.document]


def _stream(pieces: Iterable[Piece]) -> list[Segment]:
    return [piece.segment for piece in pieces]


def _places(segments: Iterable[Segment], stream: Sequence[Segment]) -> list[int | None]:
    """Return where each segment is in the stream, in order; a text may have more text around it."""
    places: list[int | None] = []
    start = 0
    for segment in segments:
        found = (place for place in range(start, len(stream)) if _holds(stream[place], segment))
        place = next(found, None)
        places.append(place)
        start = start if place is None else place + 1
    return places


def _holds(one: Segment, other: Segment) -> bool:
    if isinstance(one, Text) and isinstance(other, Text):
        return other.text in one.text
    return one == other
