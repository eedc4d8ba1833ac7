"""Templates: how the turns of a conversation become one stream of segments, and are found in it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from .errors import DocumentError
from .segments import Segment, Special
from .vocabulary import END_OF_STREAM, SEPARATOR

USER = "user"
ASSISTANT = "assistant"


class Turn(msgspec.Struct, frozen=True):
    """What one side says: a role, ``user`` or ``assistant`` or a template's own, and a document."""

    role: str
    document: tuple[Segment, ...]


class Piece(msgspec.Struct, frozen=True):
    """One segment of a rendered conversation. ``answer`` marks what a model is trained to say."""

    segment: Segment
    answer: bool = False


class Template(Protocol):
    """A prompt format. ``TemplateConformance`` in the testing module checks one.

    ``render`` gives the stream after ``<s>``, which the processor puts first, and leaves no segment out. What an
    assistant says is marked as an answer, and so is what ends it, where generation stops. A prompt is rendered as what
    stands before its answer in a longer conversation, so that a model is asked as it was trained.

    ``parse`` gets the segments of a stream in which every special, ``<s>`` and padding included, is a ``Special``, and
    finds the turns; where the format tells turns apart, ``parse(render(turns))`` is ``turns``, in normal form. It is
    given what a model wrote, which may end anywhere: it raises nothing and loses nothing.
    """

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """The segments of a conversation, in order."""

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """The turns in a stream of segments."""


class Chat:
    """A user's turn ends with the separator, an assistant's with ``</s>``, which is where generation stops.

    The one ends user's turns only and the other the assistant's only, so that the roles can be read off the ids.
    """

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """The segments of a conversation. Raises ``DocumentError`` for a role other than the two."""
        pieces: list[Piece] = []
        for turn in turns:
            if turn.role not in (USER, ASSISTANT):
                raise DocumentError(
                    f"the chat template has no role {turn.role!r}, only {USER!r} and {ASSISTANT!r}. "
                    "Put instructions at the beginning of the first user turn."
                )
            answer = turn.role == ASSISTANT
            pieces += [Piece(segment, answer) for segment in turn.document]
            pieces.append(Piece(Special(END_OF_STREAM if answer else SEPARATOR), answer))
        return pieces

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """The turns. What nothing has ended yet is an answer after a user's turn, and a user's otherwise."""
        turns: list[Turn] = []
        current: list[Segment] = []
        for segment in segments:
            if not isinstance(segment, Special):
                current.append(segment)
            elif segment.name in (SEPARATOR, END_OF_STREAM):
                turns.append(Turn(USER if segment.name == SEPARATOR else ASSISTANT, tuple(current)))
                current = []
        if current:
            turns.append(Turn(ASSISTANT if turns and turns[-1].role == USER else USER, tuple(current)))
        return turns


class Completion:
    """The document as it is, for the model to go on with.

    Turns simply follow each other, and an assistant's ends with ``</s>``, which makes pairs of prompt and completion
    to train on.
    """

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """The segments of the turns one after the other."""
        pieces: list[Piece] = []
        for turn in turns:
            answer = turn.role == ASSISTANT
            pieces += [Piece(segment, answer) for segment in turn.document]
            if answer:
                pieces.append(Piece(Special(END_OF_STREAM), answer=True))
        return pieces

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """One user's turn: this format doesn't tell where an answer began."""
        document = tuple(segment for segment in segments if not isinstance(segment, Special))
        return [Turn(USER, document)] if document else []
