"""Grammars of codecs, as a processor offers them: checked, so that a wrong one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given

from chameleon_text import (
    HOOK_API_VERSION,
    REGISTRY,
    BrokenPluginError,
    ChameleonProcessor,
    Decoded,
    DocumentError,
    PluginWarning,
    Segment,
    SegmentCodecSpec,
    _builtins,
    hookimpl,
)
from chameleon_text.testing import make_tokenizer, written_segments

TOKENIZER = make_tokenizer(more_specials=("<yes>", "<no>", "</yes>"))
YES, NO, END = (TOKENIZER.token_ids[name] for name in ("<yes>", "<no>", "</yes>"))


class Answer(Segment, frozen=True):
    is_yes: bool


class OpenYes:
    """A yes that has begun and lacks its end; ``changes`` are what a wrong one says instead."""

    def __init__(self, **changes: Any) -> None:
        self.next_ids: Any = (END,)
        self.least_ids_left: Any = 1
        self.ids_left: Any = 1
        self.after: Any = None
        vars(self).update(changes)

    def accept(self, token_id: int) -> Any:
        if isinstance(self.after, Exception):
            raise self.after
        return self.after


class AnswerGrammar:
    """A yes is two ids, a no is one alone."""

    begin_ids: Any = (YES, NO)

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def open(self, begin_id: int, room: int | None) -> Any:
        return OpenYes(**self.changes) if begin_id == YES else None


class AnswerCodec:
    ids = (YES, NO, END)

    def __init__(self, grammar: Any) -> None:
        self.grammar = grammar

    def encode(self, segments: Sequence[Answer]) -> list[list[int]]:
        return [[YES, END] if each.is_yes else [NO] for each in segments]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        end = start + 1 + (ids[start] == YES and ids[start + 1 : start + 2] == [END])
        return Decoded(Answer(ids[start] == YES), end)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChameleonProcessor]]:
    """Return a processor that has the codec with a grammar, under a name."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")

    def register(grammar: Any, name: str = "answer") -> ChameleonProcessor:
        spec = SegmentCodecSpec(
            name=name, segment=Answer, factory=lambda context: AnswerCodec(grammar), api_version=HOOK_API_VERSION
        )
        hook = "chameleon_text_segment_codecs"
        plugin = type("Plugin", (), {hook: hookimpl(lambda self: [spec], specname=hook)})()
        monkeypatch.setattr(REGISTRY, "_builtins", (_builtins, plugin))
        REGISTRY.reload()
        return ChameleonProcessor(TOKENIZER)

    yield register
    monkeypatch.undo()
    REGISTRY.reload()


def test_a_processor_offers_the_grammars_of_its_codecs_by_name(register: Callable[..., ChameleonProcessor]) -> None:
    grammar = register(AnswerGrammar()).segment_grammars["answer"]
    assert (grammar.begin_ids, grammar.ids) == ((YES, NO), {YES, NO, END})
    assert grammar.open(NO) is None
    opened = grammar.open(YES, 1)
    assert opened is not None
    assert (opened.next_ids, opened.least_ids_left, opened.ids_left) == ((END,), 1, 1)
    assert opened.accept(END) is None
    assert repr(grammar) == "CheckedGrammar(AnswerGrammar)"


def test_a_codec_without_a_grammar_offers_none(register: Callable[..., ChameleonProcessor]) -> None:
    processor = register(None)
    assert not processor.segment_grammars
    assert processor.encode(Answer(True), add_bos=False) == [YES, END]


@given(written_segments(AnswerGrammar()))
def test_what_a_grammar_lets_come_is_drawn(ids: list[int]) -> None:
    assert ids in ([YES, END], [NO])


@pytest.mark.parametrize(
    ("grammar", "name", "message"),
    [
        (AnswerGrammar(), "interleaved", "its name is that of a modality, one of text, image, interleaved"),
        (3, "answer", "its grammar is 3 without a method open"),
    ],
    ids=["the name of a modality", "no grammar"],
)
def test_a_codec_whose_grammar_cant_be_used_says_why(
    grammar: Any, name: str, message: str, register: Callable[..., ChameleonProcessor]
) -> None:
    processor = register(grammar, name)
    assert not processor.segment_grammars
    with pytest.raises(DocumentError, match=f"'{name}' of .* can't be used here: {message}"):
        processor.encode(Answer(True))


@pytest.mark.parametrize(
    ("begin_ids", "message"),
    [((), r"\(\) as begin_ids .* a tuple"), ((4,), "4 in begin_ids, which isn't one of its ids")],
    ids=["nothing", "text"],
)
def test_a_codec_whose_segments_cant_begin_is_not_used(
    begin_ids: tuple[int, ...], message: str, register: Callable[..., ChameleonProcessor]
) -> None:
    grammar = AnswerGrammar()
    grammar.begin_ids = begin_ids
    with pytest.warns(PluginWarning, match=f"'answer' of .* is not used: .*returned {message}"):
        assert not register(grammar).segment_grammars


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_ids": [END]}, r"returned \[\d+\] as next_ids of a segment; expected a tuple"),
        ({"next_ids": ()}, r"returned \(\) as next_ids"),
        ({"next_ids": (END, END)}, "as next_ids of a segment; .* each once"),
        ({"next_ids": (YES,)}, "in next_ids, which isn't one of its ids that may come within a segment"),
        ({"next_ids": (4,)}, "returned 4 in next_ids"),
        ({"next_ids": (True,)}, "returned True in next_ids"),
        ({"least_ids_left": 0}, "returned 0 as least_ids_left of a segment; expected an integer ≥ 1"),
        ({"least_ids_left": None}, "returned None as least_ids_left"),
        ({"ids_left": 1.0}, "returned 1.0 as ids_left"),
        ({"after": "more"}, "returned a str from accept; expected an OpenSegment or None"),
        ({"after": ValueError("not today")}, r"failed, accepting the id \d+: ValueError: not today"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value)),
)
def test_what_a_grammar_does_wrong_names_the_codec(
    changes: dict[str, Any], message: str, register: Callable[..., ChameleonProcessor]
) -> None:
    grammar = register(AnswerGrammar(**changes)).segment_grammars["answer"]
    with pytest.raises(BrokenPluginError, match=f"'answer' of .* {message}"):
        grammar.open(YES, 1).accept(END)  # type: ignore[union-attr]
