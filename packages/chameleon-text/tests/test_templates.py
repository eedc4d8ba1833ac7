"""Turns to one stream and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chameleon_text import ChameleonProcessor, DocumentError, Image, Piece, Special, Text, Turn, normalized
from chameleon_text.templates import Chat, Completion
from chameleon_text.testing import documents, make_tokenizer

PROCESSOR = ChameleonProcessor(make_tokenizer(), image_seq_length=4)
QUESTION = Turn("user", (Text("What?"), Image(codes=(1,))))
ANSWER = Turn("assistant", (Text("That."),))


def conversations() -> st.SearchStrategy[list[Turn]]:
    document = documents().map(lambda each: tuple(normalized(each)))
    return st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), document), max_size=4)


@given(conversations())
def test_a_conversation_in_chat_comes_back_turn_by_turn(turns: list[Turn]) -> None:
    assert PROCESSOR.decode_turns(PROCESSOR.encode_messages(turns), template="chat") == turns


@given(conversations())
def test_messages_and_turns_have_the_same_ids(turns: list[Turn]) -> None:
    messages = PROCESSOR.decode_messages(PROCESSOR.encode_messages(turns))
    assert PROCESSOR.encode_messages(messages) == PROCESSOR.encode_messages(turns)


def test_chat_ends_a_users_turn_with_the_separator_and_an_answer_with_the_end() -> None:
    assert Chat().render([QUESTION, ANSWER]) == [
        Piece(Text("What?")),
        Piece(Image(codes=(1,))),
        Piece(Special("<reserved08706>")),
        Piece(Text("That."), answer=True),
        Piece(Special("</s>"), answer=True),
    ]


def test_chat_knows_an_answer_that_has_not_ended() -> None:
    stream = [Special("<s>"), Text("What?"), Special("<reserved08706>"), Text("Th")]
    assert Chat().parse(stream) == [Turn("user", (Text("What?"),)), Turn("assistant", (Text("Th"),))]
    assert Chat().parse([Text("What?")]) == [Turn("user", (Text("What?"),))]


def test_chat_refuses_a_role_that_it_does_not_have() -> None:
    with pytest.raises(DocumentError, match="no role 'tool', only 'system', 'user' and 'assistant'"):
        Chat().render([Turn("tool", (Text("Be brief."),))])


def test_completion_adds_only_the_end_of_an_answer() -> None:
    assert Completion().render([QUESTION]) == [Piece(Text("What?")), Piece(Image(codes=(1,)))]
    assert Completion().render([ANSWER]) == [Piece(Text("That."), answer=True), Piece(Special("</s>"), answer=True)]


def test_completion_reads_one_document() -> None:
    assert Completion().parse([Special("<s>"), Text("a"), Special("</s>")]) == [Turn("user", (Text("a"),))]
    assert Completion().parse([Special("<s>")]) == []
