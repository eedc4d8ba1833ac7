"""The built-in codecs and templates pass the conformance suites; wrong ones and weakened suites don't."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from chameleon_text import (
    HOOK_API_VERSION,
    REGISTRY,
    BrokenPluginError,
    Decoded,
    Image,
    Piece,
    PluginSpec,
    Segment,
    SegmentCodecSpec,
    Special,
    Text,
    Turn,
    _builtins,
    hookimpl,
)
from chameleon_text.templates import Chat
from chameleon_text.testing import SegmentCodecConformance, TemplateConformance, segment_codecs, templates, texts


class TestTextCodec(SegmentCodecConformance):
    name = "text"
    not_applicable = {"test_a_segment_is_found_amid_text": "text amid text is one text"}

    def segments(self) -> list[Segment]:
        return [Text("the apple"), Text(""), Text("é😀<image></s>IMGIMGAZ\x00")]

    def drawn_segments(self) -> st.SearchStrategy[Segment]:
        return texts().map(Text)


class TestImageCodec(SegmentCodecConformance):
    name = "image"

    def segments(self) -> list[Segment]:
        return [Image(codes=(0, 63, 5, 5)), Image(codes=(1,)), Image(codes=()), Image()]


class TestChat(TemplateConformance):
    name = "chat"


class TestCompletion(TemplateConformance):
    name = "completion"
    not_applicable = {
        "test_a_conversation_comes_back_from_its_ids_turn_by_turn": "the format doesn't tell where an answer began"
    }


# A codec of one's own, and what can be wrong with it.

SOUNDS = ("<sound>", "</sound>", *(f"<sound_{code}>" for code in range(8)))


class Sound(Segment, frozen=True):
    codes: tuple[int, ...]


class OpenSound:
    """The right grammar's state: any codes, and the end; the wrong ones change a part of it."""

    def __init__(self, codec: Any, room: int | None) -> None:
        self.codec, self.room = codec, room

    @property
    def next_ids(self) -> tuple[int, ...]:
        return (self.codec.end,) if self.room == 1 else (*self.codec.code_ids, self.codec.end)

    least_ids_left = 1

    @property
    def ids_left(self) -> int | None:
        return self.room

    def accept(self, token_id: int) -> Any:
        room = None if self.room is None else self.room - 1
        return None if token_id == self.codec.end else type(self)(self.codec, room)


class SoundGrammar:
    state: type[OpenSound] = OpenSound

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        self.begin_ids: tuple[int, ...] = (codec.begin,)

    def open(self, begin_id: int, room: int | None) -> Any:
        return self.state(self.codec, room)


class SoundCodec:
    """A right one; the wrong ones change a part of it."""

    Grammar: type[SoundGrammar] = SoundGrammar

    def __init__(self, context: Any) -> None:
        self.context = context
        self.begin, self.end, *self.code_ids = (context.tokenizer.token_ids[name] for name in SOUNDS)
        self.ids = {self.begin, self.end, *self.code_ids}
        self.calls = 0
        self.grammar = self.Grammar(self)

    def encode(self, segments: Sequence[Sound]) -> list[list[int]]:
        self.calls += 1
        return [[self.begin, *(self.code_ids[code] for code in each.codes), self.end] for each in segments]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        position = start + (ids[start] == self.begin)
        codes = []
        while position < len(ids) and ids[position] in self.code_ids:
            codes.append(self.code_ids.index(ids[position]))
            position += 1
        closed = position < len(ids) and ids[position] == self.end
        return Decoded(Sound(tuple(codes)), position + closed)


class Notes(Segment, frozen=True):
    codes: list[int]


def lacks_sounds(context: Any) -> str | None:
    return None if SOUNDS[0] in context.tokenizer.token_ids else "the vocabulary has no '<sound>'"


class SoundSuite(SegmentCodecConformance):
    name = "sound"
    more_specials = SOUNDS

    def segments(self) -> list[Segment]:
        return [Sound((1, 2, 3)), Sound(()), Sound((7, 7, 0))]


class NothingToTest(SoundSuite):
    def segments(self) -> list[Segment]:
        return []


class OtherSegments(SoundSuite):
    def segments(self) -> list[Segment]:
        return [Notes([1, 2])]


def codec(**methods: Callable[..., Any]) -> type[SoundCodec]:
    """A codec some of whose methods do something else; ``__init__`` comes on top of the right one."""
    extend = methods.pop("__init__", None)
    wrong = type("Wrong", (SoundCodec,), methods)
    if extend is not None:

        def init(self: Any, context: Any) -> None:
            SoundCodec.__init__(self, context)
            extend(self, context)

        wrong.__init__ = init  # type: ignore[misc]
    return wrong


def encodes(change: Callable[[SoundCodec, list[list[int]]], Any]) -> dict[str, Any]:
    """A codec whose ids are changed on their way out."""
    return {"factory": codec(encode=lambda self, segments: change(self, SoundCodec.encode(self, segments)))}


def decodes(change: Callable[[Any, Sequence[int], Decoded], Any]) -> dict[str, Any]:
    """A codec whose segments are changed on their way out."""
    return {
        "factory": codec(decode=lambda self, ids, start: change(self, ids[start:], SoundCodec.decode(self, ids, start)))
    }


def writes(**state: Any) -> dict[str, Any]:
    """A codec whose open segments do something else."""
    grammar = type("Grammar", (SoundGrammar,), {"state": type("Wrong", (OpenSound,), state)})
    return {"factory": codec(Grammar=grammar)}


def opens(change: Callable[[SoundGrammar, int | None], Any]) -> dict[str, Any]:
    """A codec whose grammar opens segments otherwise."""
    grammar = type("Grammar", (SoundGrammar,), {"open": lambda self, begin_id, room: change(self, room)})
    return {"factory": codec(Grammar=grammar)}


class Changing(OpenSound):
    """Counts its room down where it is."""

    def accept(self, token_id: int) -> Any:
        if token_id == self.codec.end:
            return None
        self.room = None if self.room is None else self.room - 1
        return self


class Shared(OpenSound):
    """Counts what all open segments of a codec have accepted."""

    @property
    def ids_left(self) -> int | None:
        return 1000 - self.codec.calls

    def accept(self, token_id: int) -> Any:
        self.codec.calls += 1
        return super().accept(token_id)


def without_markers(self: SoundCodec, rows: list[list[int]]) -> list[list[int]]:
    return [row[1:-1] for row in rows]


def batch_in_one(self: SoundCodec, rows: list[list[int]]) -> list[list[int]]:
    return [[token_id for row in rows for token_id in row], *([] for _ in rows[1:])]


def louder_each_time(self: SoundCodec, rows: list[list[int]]) -> list[list[int]]:
    return [[*row[:1], *self.code_ids[: self.calls], *row[1:]] for row in rows]


def fails_unless_begun(self: SoundCodec, ids: Sequence[int], decoded: Decoded) -> Decoded:
    if ids[0] != self.begin:
        raise ValueError("this is no sound")
    return decoded


def notes_that_it_was_cut_off(self: SoundCodec, ids: Sequence[int], decoded: Decoded) -> Decoded:
    """By a code that can't be written."""
    if self.end in ids:
        return decoded
    return Decoded(Sound((*decoded.segment.codes, -1)), decoded.end)  # type: ignore[attr-defined]


WRONG_CODECS: dict[str, dict[str, dict[str, Any]]] = {
    "test_the_spec_says_what_it_is_and_for_which_hooks": {"no summary": {"summary": ""}},
    "test_it_can_run_here": {"not on this machine": {"unavailable": lambda: "not today"}},
    "test_a_vocabulary_without_its_tokens_is_refused_by_a_sentence": {
        "says nothing": {"unsupported": lambda context: None},
        "an empty sentence": {"unsupported": lambda context: None if lacks_sounds(context) is None else " "},
    },
    "test_segments_are_of_the_declared_type": {
        "nothing to test": {"suite": NothingToTest},
        "other segments": {"suite": OtherSegments},
    },
    "test_a_segment_can_be_shared_and_be_a_key": {"holds a list": {"suite": OtherSegments, "segment": Notes}},
    "test_its_ids_are_of_the_vocabulary_and_of_no_other_codec": {
        "has a picture's": {
            "factory": codec(__init__=lambda self, context: self.ids.add(context.vocabulary.begin_image_id))
        },
        "has a text's": {"factory": codec(__init__=lambda self, context: self.ids.update(context.vocabulary.text_ids))},
        "has none": {"factory": codec(__init__=lambda self, context: self.ids.clear())},
        "beyond the vocabulary": {
            "factory": codec(__init__=lambda self, context: self.ids.add(len(context.tokenizer)))
        },
    },
    "test_every_id_that_is_written_belongs_to_the_codec": {
        "leaks an id out of its range": encodes(lambda self, rows: [[*row, max(self.ids) + 1] for row in rows]),
        "text between": encodes(lambda self, rows: [[*row, *self.context.tokenizer.encode("the")] for row in rows]),
        "too few rows": encodes(lambda self, rows: rows[1:]),
    },
    "test_segments_encoded_together_are_as_if_encoded_alone": {
        "all in the first": encodes(batch_in_one),
        "in another order": encodes(lambda self, rows: rows[::-1]),
    },
    "test_encoding_twice_gives_the_same_ids": {"remembers": encodes(louder_each_time)},
    "test_nothing_to_encode_gives_nothing": {"a row of nothing": encodes(lambda self, rows: rows or [[]])},
    "test_decoding_what_was_encoded_gives_the_same_segment": {
        "not injective": encodes(lambda self, rows: [[*row[:1], *sorted(row[1:-1]), row[-1]] for row in rows]),
        "drops the last code": encodes(lambda self, rows: [[*row[:-2], self.end] for row in rows]),
        "leaves its end behind": decodes(lambda self, ids, decoded: Decoded(decoded.segment, decoded.end - 1)),
        "reads backwards": decodes(lambda self, ids, decoded: Decoded(Sound(decoded.segment.codes[::-1]), decoded.end)),
    },
    "test_a_segment_is_found_amid_text": {
        "goes on into the text": decodes(lambda self, ids, decoded: Decoded(decoded.segment, decoded.end + 1)),
        "to the end": decodes(lambda self, ids, decoded: Decoded(decoded.segment, decoded.end + len(ids))),
    },
    "test_a_document_comes_back_whatever_stands_beside_what": {"no end between two": encodes(without_markers)},
    "test_any_ids_of_the_codec_are_read_without_an_error": {
        "fails unless begun": decodes(fails_unless_begun),
        "reads nothing": decodes(lambda self, ids, decoded: Decoded(decoded.segment, decoded.end - len(ids))),
        "another type": decodes(lambda self, ids, decoded: Decoded(Text("?"), decoded.end)),
        "beyond the last": decodes(lambda self, ids, decoded: Decoded(decoded.segment, decoded.end + 1)),
    },
    "test_what_was_read_is_in_normal_form": {"can't be written again": decodes(notes_that_it_was_cut_off)},
    "test_a_processor_offers_the_grammar": {
        "without a method": {"factory": codec(__init__=lambda self, context: setattr(self, "grammar", self.begin))},
        "text begins": {"factory": codec(__init__=lambda self, context: setattr(self.grammar, "begin_ids", (1,)))},
        "nothing begins": {"factory": codec(__init__=lambda self, context: setattr(self.grammar, "begin_ids", ()))},
        "opens nothing of use": opens(lambda self, room: self.codec.code_ids),
    },
    "test_a_segment_ends_in_its_room": {
        "knows no room": opens(lambda self, room: self.state(self.codec, None)),
        "one too many": opens(lambda self, room: self.state(self.codec, None if room is None else room + 1)),
        "never": writes(accept=lambda self, token_id: self),
    },
    "test_what_may_come_are_ids_of_the_codec_and_none_that_begins": {
        "one that begins": writes(next_ids=property(lambda self: (self.codec.begin, self.codec.end))),
        "text": writes(next_ids=property(lambda self: (*self.codec.context.tokenizer.encode("the"), self.codec.end))),
        "twice": writes(next_ids=property(lambda self: (self.codec.end, self.codec.end))),
        "a list": writes(next_ids=property(lambda self: [self.codec.end])),
        "nothing": writes(next_ids=()),
    },
    "test_what_is_left_of_a_segment_is_what_comes": {
        "too much at least": writes(least_ids_left=2, next_ids=property(lambda self: (self.codec.end,)), ids_left=None),
        "nothing at least": writes(least_ids_left=0),
        "too little at most": writes(ids_left=1),
    },
    "test_more_room_allows_no_less": {
        "only as long as the room": writes(
            next_ids=property(lambda self: (self.codec.end,) if self.room == 1 else tuple(self.codec.code_ids))
        ),
        "nothing long": opens(lambda self, room: self.state(self.codec, 2 if room is None else room)),
    },
    "test_an_open_segment_never_changes": {
        "counts where it is": writes(accept=Changing.accept),
        "counts for all": writes(accept=Shared.accept, ids_left=Shared.ids_left),
    },
    "test_a_segment_that_was_written_is_read_whole": {
        "begins anew": writes(
            next_ids=property(lambda self: (self.codec.begin, *OpenSound.next_ids.fget(self)))  # type: ignore[attr-defined]
        ),
        "ends by a code": writes(
            accept=lambda self, token_id: None if self.room == 1 or token_id == self.codec.end else self,
            next_ids=property(lambda self: tuple(self.codec.code_ids)),
        ),
        "two ends": writes(
            least_ids_left=2,
            next_ids=property(lambda self: (self.codec.end,)),
            accept=lambda self, token_id: OpenSound(self.codec, 1),
        ),
    },
    "test_what_is_encoded_may_be_written": {
        "ends before its end": opens(lambda self, room: None),
        "three codes at most": opens(lambda self, room: self.state(self.codec, 3)),
        "the first codes alone": writes(next_ids=property(lambda self: (*self.codec.code_ids[:2], self.codec.end))),
        "begins otherwise": {
            "factory": codec(__init__=lambda self, context: setattr(self.grammar, "begin_ids", (self.code_ids[0],)))
        },
    },
    "test_a_segment_survives_json": {
        "drops the codes": {"dump": lambda segment: {"codes": []}},
        "reads another": {"load": lambda fields: Sound((0,))},
    },
    "test_a_segment_is_a_part_of_plain_json_under_the_name_of_its_codec": {
        "numbers of numpy's": {"dump": lambda segment: {"codes": [np.int64(code) for code in segment.codes]}},
        "another name": {"dump": lambda segment: {"codes": list(segment.codes), "type": "noise"}},
    },
    "test_a_part_that_is_not_understood_is_a_document_error": {
        "a bare error": {"load": lambda fields: Sound(tuple(fields["codes"]))},
        "another type": {"load": lambda fields: Text("?")},
    },
}


# A template of one's own, and what can be wrong with it.


class AcmeSuite(TemplateConformance):
    name = "acme"


def renders(change: Callable[[list[Piece]], Any]) -> dict[str, Any]:
    """A format whose pieces are changed on their way out."""
    return {"factory": type("Wrong", (Chat,), {"render": lambda self, turns: change(Chat.render(self, turns))})}


def parses(change: Callable[[Sequence[Segment], list[Turn]], Any]) -> dict[str, Any]:
    """A format whose turns are changed on their way out."""
    return {
        "factory": type("Wrong", (Chat,), {"parse": lambda self, segments: change(segments, Chat().parse(segments))})
    }


def told_apart_by_number(pieces: list[Piece]) -> list[Piece]:
    """What stands before an answer changes with it."""
    return [Piece(Special("<sentinel:0>"))] * (sum(piece.answer for piece in pieces) > 0) + pieces


def no_role(self: Chat, turns: Sequence[Turn]) -> list[Piece]:
    roles = {"user": Special("<reserved08706>"), "assistant": Special("</s>")}
    return [Piece(roles[turn.role]) for turn in turns]


def only_finished_turns(segments: Sequence[Segment], turns: list[Turn]) -> list[Turn]:
    finished = not segments or segments[-1] in (Special("</s>"), Special("<reserved08706>"))
    return turns if finished else turns[:-1]


def only_whole_streams(segments: Sequence[Segment], turns: list[Turn]) -> list[Turn]:
    if segments[:1] != [Special("<s>")]:
        raise ValueError("this is no stream")
    return turns


class Counting(Chat):
    rendered = 0

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        self.rendered += 1
        return super().render(turns) + [Piece(Special("<sentinel:0>"))] * self.rendered


class Forgetful(Chat):
    """Renders nothing of a role that it doesn't know."""

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        return super().render([turn for turn in turns if turn.role in ("user", "assistant")])


class BareError(Chat):
    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        return [] if all(turn.role in ("user", "assistant") for turn in turns) else [][0]


class Labelled:
    """A right format that says by text who speaks."""

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        pieces: list[Piece] = []
        for turn in turns:
            answer = turn.role == "assistant"
            pieces += [] if answer else [Piece(Text("Question: "))]
            pieces += [Piece(segment, answer) for segment in turn.document]
            pieces.append(Piece(Special("</s>"), answer=True) if answer else Piece(Text("\nAnswer: ")))
        return pieces

    def parse(self, segments: Sequence[Segment]) -> list[Turn]:
        document = tuple(each for each in segments if not isinstance(each, Special))
        return [Turn("user", document)] if document else []


def refuses_everything(turns: Any) -> Any:
    raise ValueError("not today")


WRONG_TEMPLATES: dict[str, dict[str, dict[str, Any]]] = {
    "test_the_spec_says_what_it_is_and_for_which_hooks": {"no summary": {"summary": ""}},
    "test_every_segment_is_rendered_whole_and_in_order": {
        "refuses everything": renders(refuses_everything),
        "isn't available": {"unavailable": lambda: "not today"},
        "drops a segment": renders(lambda pieces: pieces[1:]),
        "drops pictures": renders(lambda pieces: [each for each in pieces if not isinstance(each.segment, Image)]),
        "in another order": renders(lambda pieces: pieces[::-1]),
        "changes the text": renders(
            lambda pieces: [
                Piece(Text(each.segment.text.upper().strip()), each.answer) if isinstance(each.segment, Text) else each
                for each in pieces
            ]
        ),
    },
    "test_answers_are_trained_on_and_questions_are_not": {
        "nothing": renders(lambda pieces: [Piece(each.segment) for each in pieces]),
        "everything": renders(lambda pieces: [Piece(each.segment, answer=True) for each in pieces]),
    },
    "test_what_ends_an_answer_is_trained_on": {
        "nothing ends it": renders(lambda pieces: pieces[:-1]),
        "its end isn't": renders(lambda pieces: [*pieces[:-1], Piece(Special("</s>"))]),
    },
    "test_a_prompt_is_rendered_as_what_stands_before_its_answer": {
        "another beginning": renders(told_apart_by_number),
    },
    "test_rendering_twice_gives_the_same_stream": {"counts": {"factory": Counting}},
    "test_a_role_that_it_does_not_have_is_a_document_error": {
        "a bare error": {"factory": type("Wrong", (Chat,), {"render": no_role})},
        "drops the turn": {"factory": Forgetful},
    },
    "test_a_conversation_comes_back_from_its_ids_turn_by_turn": {
        "all is the user's": parses(lambda segments, turns: [Turn("user", turn.document) for turn in turns]),
        "specials that no vocabulary has": renders(lambda pieces: [Piece(Special("<acme>")), *pieces]),
        "empty turns are lost": parses(lambda segments, turns: [turn for turn in turns if turn.document]),
    },
    "test_no_segment_is_lost_wherever_the_stream_is_cut_off": {
        "only finished turns": parses(only_finished_turns),
        "only the last": parses(lambda segments, turns: turns[-1:]),
    },
    "test_any_stream_is_parsed_without_an_error": {"only whole streams": parses(only_whole_streams)},
}


# What a law says itself, and what wrong plugins raise in it.
FAILURES = (AssertionError, BrokenPluginError, KeyError, TypeError, ValueError, pytest.fail.Exception)


@pytest.fixture
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is expected, and its smallest example of no interest."""
    for suite in (segment_codecs, templates):
        monkeypatch.setattr(suite, "LAW", settings(suite.LAW, phases=[Phase.generate]))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Registers a custom codec or template beside the built-ins."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")

    def register(hook: str, spec: PluginSpec) -> None:
        plugin = type("Plugin", (), {hook: hookimpl(lambda self: [spec], specname=hook)})()
        monkeypatch.setattr(REGISTRY, "_builtins", (_builtins, plugin))
        REGISTRY.reload()

    yield register
    monkeypatch.undo()
    REGISTRY.reload()


def run_law(suite: Any, law: str) -> None:
    """Call a test of a suite with the fixtures that it asks for."""

    def fixture(name: str) -> Any:
        return call(getattr(type(suite), name)._get_wrapped_function())

    def call(function: Callable[..., Any]) -> Any:
        names = [name for name in inspect.signature(function).parameters if name != "self"]
        return function(suite, **{name: fixture(name) for name in names})

    try:
        call(getattr(type(suite), law))
    except pytest.skip.Exception as skipped:
        raise RuntimeError(f"{law} was skipped, so nothing was tested") from skipped


def sound_spec(**changes: Any) -> SegmentCodecSpec:
    fields = {
        "name": "sound",
        "segment": Sound,
        "factory": SoundCodec,
        "api_version": HOOK_API_VERSION,
        "summary": "sounds as codes",
        "unsupported": lacks_sounds,
    }
    return SegmentCodecSpec(**{**fields, **changes})


def template_spec(**changes: Any) -> PluginSpec:
    fields = {"name": "acme", "factory": Chat, "api_version": HOOK_API_VERSION, "summary": "as chat"}
    return PluginSpec(**{**fields, **changes})


def laws(suite: type) -> set[str]:
    return {name for name in dir(suite) if name.startswith("test_")}


def cases(wrong: dict[str, dict[str, dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(law, changes, id=f"{law}-{what}")
        for law, of_law in wrong.items()
        for what, changes in of_law.items()
    ]


@pytest.mark.parametrize("law", sorted(laws(SegmentCodecConformance)))
def test_a_right_codec_passes_every_law(law: str, register: Callable[..., None]) -> None:
    register("chameleon_text_segment_codecs", sound_spec())
    run_law(SoundSuite(), law)


@pytest.mark.parametrize("law", sorted(laws(TemplateConformance) - TestCompletion.not_applicable.keys()))
def test_a_right_template_passes_every_law(law: str, register: Callable[..., None]) -> None:
    register("chameleon_text_templates", template_spec(factory=Labelled))
    run_law(AcmeSuite(), law)


@pytest.mark.parametrize(("law", "changes"), cases(WRONG_CODECS))
def test_a_wrong_codec_fails_the_law_that_it_breaks(
    law: str, changes: dict[str, Any], register: Callable[..., None], no_shrinking: None
) -> None:
    changes = dict(changes)
    suite = changes.pop("suite", SoundSuite)()
    register("chameleon_text_segment_codecs", sound_spec(**changes))
    with pytest.raises(FAILURES):
        run_law(suite, law)


@pytest.mark.parametrize(("law", "changes"), cases(WRONG_TEMPLATES))
def test_a_wrong_template_fails_the_law_that_it_breaks(
    law: str, changes: dict[str, Any], register: Callable[..., None], no_shrinking: None
) -> None:
    register("chameleon_text_templates", template_spec(**changes))
    with pytest.raises(FAILURES):
        run_law(AcmeSuite(), law)


@pytest.mark.parametrize(
    ("suite", "wrong"), [(SegmentCodecConformance, WRONG_CODECS), (TemplateConformance, WRONG_TEMPLATES)]
)
def test_every_law_has_a_wrong_plugin_that_fails_it(suite: type, wrong: dict[str, Any]) -> None:
    assert laws(suite) == wrong.keys()


def test_a_codec_that_refuses_everything_fails_every_law_about_it(register: Callable[..., None]) -> None:
    register("chameleon_text_segment_codecs", sound_spec(unsupported=lambda context: "not today"))
    with pytest.raises(pytest.fail.Exception, match=r"'sound' can't be used .* nothing was tested: not today"):
        run_law(SoundSuite(), "test_any_ids_of_the_codec_are_read_without_an_error")


def test_a_suite_without_segments_says_what_to_add() -> None:
    class Nothing(SegmentCodecConformance):
        name = "text"

    with pytest.raises(TypeError, match=r"Nothing must have a method segments\(\)"):
        Nothing().segments()


@pytest.mark.parametrize("package", ["hypothesis", "pytest"])
def test_without_what_the_suites_need_the_error_has_the_install_line(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from chameleon_text.testing import TemplateConformance"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    install = "pip install './packages/chameleon-text[testing]'"
    assert f"TemplateConformance needs the package {package!r}: {install}" in done.stderr


class TestWeakening:
    """A suite can't lose a test without a stated reason."""

    def test_replacing_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match=r"Weak replaces test_a_segment_survives_json\. .* not_applicable"):

            class Weak(SegmentCodecConformance):
                def test_a_segment_survives_json(self) -> None:
                    pass

    def test_deleting_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="Weak replaces test_rendering_twice"):

            class Weak(TemplateConformance):
                test_rendering_twice_gives_the_same_stream = None  # type: ignore[assignment]

    def test_deleting_by_a_mixin_is_an_error(self) -> None:
        class Mixin:
            test_a_segment_survives_json = None

        with pytest.raises(TypeError, match="Weak replaces"):

            class Weak(Mixin, SegmentCodecConformance):  # type: ignore[misc]
                pass

    def test_deleting_in_a_grandchild_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="Weak replaces"):

            class Weak(SoundSuite):
                test_a_segment_survives_json = None  # type: ignore[assignment]

    def test_a_test_is_left_out_only_with_a_reason(self) -> None:
        with pytest.raises(TypeError, match="Weak gives no reason to leave out test_a_segment_survives_json"):

            class Weak(SegmentCodecConformance):
                not_applicable = {"test_a_segment_survives_json": " "}

    def test_only_a_standard_test_can_be_left_out(self) -> None:
        with pytest.raises(TypeError, match="Weak leaves out what isn't a standard test: test_nothing"):

            class Weak(SegmentCodecConformance):
                not_applicable = {"test_nothing": "there is no such test"}

    def test_more_tests_are_welcome(self) -> None:
        class More(TemplateConformance):
            name = "chat"

            def test_something_of_its_own(self) -> None:
                """Nothing."""

        assert issubclass(More, TemplateConformance)
