"""Templates: the turns of a conversation as one stream of segments, and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import msgspec

from .errors import DocumentError
from .segments import Segment, Special, Text
from .vocabulary import END_OF_STREAM, SEPARATOR

USER = "user"
"""The role of who asks."""
ASSISTANT = "assistant"
"""The role of the model."""
SYSTEM = "system"
"""The role of instructions, which the chat template puts before the user's turn that follows them."""


class Turn(msgspec.Struct, frozen=True):
    """What one side of a conversation says."""

    role: str
    """``user``, ``assistant``, or a role of the template's own."""
    document: tuple[Segment, ...]
    """What it says."""

    def __post_init__(self) -> None:
        if not isinstance(self.role, str):
            raise DocumentError(f"the role of a turn must be a str, not {type(self.role).__name__}.")
        if isinstance(self.document, list):
            msgspec.structs.force_setattr(self, "document", tuple(self.document))
        if not isinstance(self.document, tuple) or not all(isinstance(each, Segment) for each in self.document):
            raise DocumentError(
                "the document of a turn must be a tuple of segments. as_document makes segments of plain values."
            )


class Piece(msgspec.Struct, frozen=True):
    """One segment of a rendered conversation."""

    segment: Segment
    """The segment."""
    answer: bool = False
    """Whether a model is trained to write it."""


class Template(Protocol):
    """A prompt format. ``chameleon_text.testing.TemplateConformance`` checks one.

    ``render`` returns the stream after ``<s>``, which the processor puts first, and leaves no segment out. What an
    assistant says is marked as an answer, and so is what ends it, where generation stops. A prompt is rendered as what
    precedes its answer in a longer conversation, so that a model is asked as it was trained.

    ``parse`` gets the segments of a stream, in which every special token is a ``Special``, ``<s>`` and padding
    included, and finds the turns. Where the format tells turns apart, ``parse(render(turns))`` is ``turns``, in normal
    form. A stream that a model wrote may end anywhere: ``parse`` raises nothing and drops nothing.
    """

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """Return the segments of a conversation, in order."""

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """Return the turns in a stream of segments."""


class Chat:
    """The format in which a user's turn ends with the separator and an assistant's with ``</s>``.

    Each of the two ends the turns of one role only, so that the roles can be read from the ids. Generation stops at
    ``</s>``. What a system says is the beginning of the user's turn that follows it, before an empty line; the
    published model has no other place for it.
    """

    def __repr__(self) -> str:
        return "Chat()"

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """Return the segments of a conversation.

        Raises ``DocumentError`` for other roles, and for a system's turn that no user's turn follows.
        """
        pieces: list[Piece] = []
        for turn, following in itertools.zip_longest(turns, turns[1:]):
            if turn.role not in (USER, ASSISTANT, SYSTEM):
                raise DocumentError(
                    f"the chat template has no role {turn.role!r}, only {SYSTEM!r}, {USER!r} and {ASSISTANT!r}."
                )
            if turn.role == SYSTEM:
                if following is None or following.role != USER:
                    raise DocumentError("a system's turn is put before the user's turn that follows it, and none does.")
                pieces += [Piece(segment) for segment in (*turn.document, Text("\n\n"))]
                continue
            answer = turn.role == ASSISTANT
            pieces += [Piece(segment, answer) for segment in turn.document]
            pieces.append(Piece(Special(END_OF_STREAM if answer else SEPARATOR), answer))
        return pieces

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """Return the turns. What no token ends is an answer if it follows a user's turn, else a user's turn."""
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
    """The format that puts nothing around a document, for the model to continue.

    Turns simply follow each other, and an assistant's ends with ``</s>``, which makes pairs of prompt and completion
    to train on.
    """

    def __repr__(self) -> str:
        return "Completion()"

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """Return the segments of the turns, one after the other."""
        pieces: list[Piece] = []
        for turn in turns:
            answer = turn.role == ASSISTANT
            pieces += [Piece(segment, answer) for segment in turn.document]
            if answer:
                pieces.append(Piece(Special(END_OF_STREAM), answer=True))
        return pieces

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        """Return one user's turn, because this format doesn't tell where an answer began."""
        document = tuple(segment for segment in segments if not isinstance(segment, Special))
        return [Turn(USER, document)] if document else []
