"""A third-party modality and template, from a distribution made for the test."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chameleon_text import (
    REGISTRY,
    BrokenPluginError,
    ChameleonProcessor,
    ConfigError,
    DocumentError,
    PluginWarning,
    Text,
    Turn,
    UnknownPluginError,
    document_from_json,
    document_from_parts,
    document_to_json,
)
from chameleon_text.registry import SEGMENT_CODECS_HOOK, TEMPLATES_HOOK
from chameleon_text.testing import make_tokenizer

AUDIO = ("<audio>", "</audio>", *(f"<audio_{code}>" for code in range(8)))

PLUGIN = """
    from chameleon_text import (
        HOOK_API_VERSION, Decoded, Piece, PluginSpec, Segment, SegmentCodecSpec, Special, Turn, hookimpl
    )

    class Audio(Segment, frozen=True):
        codes: tuple[int, ...]

    class AudioCodec:
        def __init__(self, context):
            token_ids = context.tokenizer.token_ids
            self.begin, self.end = token_ids["<audio>"], token_ids["</audio>"]
            self.code_ids = [token_ids[f"<audio_{code}>"] for code in range(8)]
            self.codes = {token_id: code for code, token_id in enumerate(self.code_ids)}
            self.ids = {self.begin, self.end, *self.code_ids}

        def encode(self, segments):
            return [[self.begin, *(self.code_ids[code] for code in each.codes), self.end] for each in segments]

        def decode(self, ids, start):
            position = start + (ids[start] == self.begin)
            codes = []
            while position < len(ids) and ids[position] in self.codes:
                codes.append(self.codes[ids[position]])
                position += 1
            closed = position < len(ids) and ids[position] == self.end
            return Decoded(Audio(tuple(codes)), position + closed)

    def lacking(context):
        return None if "<audio>" in context.tokenizer.token_ids else "the vocabulary has no '<audio>'"

    @hookimpl
    def chameleon_text_segment_codecs():
        return [SegmentCodecSpec(
            name="audio", segment=Audio, factory=AudioCodec, unsupported=lacking, api_version=HOOK_API_VERSION
        )]

    class Shout:
        def render(self, turns):
            return [Piece(segment) for turn in turns for segment in (*turn.document, Special("<sentinel:0>"))]

        def parse(self, segments):
            return [Turn("user", (each,)) for each in segments if not isinstance(each, Special)]

    @hookimpl
    def chameleon_text_templates():
        return [PluginSpec(name="shout", factory=Shout, api_version=HOOK_API_VERSION)]
"""


class Installer:
    """Puts distributions with one plugin each where Python finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def __call__(self, distribution: str, source: str) -> ModuleType:
        module = distribution.replace("-", "_")
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        metadata = self.folder / f"{module}-0.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.2\n")
        (metadata / "entry_points.txt").write_text(f"[chameleon_text]\n{module} = {module}\n")
        importlib.invalidate_caches()
        REGISTRY.reload()
        return importlib.import_module(module)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    monkeypatch.delenv("CHAMELEON_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    installer = Installer(tmp_path)
    yield installer
    for module in installer.modules:
        sys.modules.pop(module, None)
    REGISTRY.reload()


@pytest.fixture
def audio(install: Installer) -> Any:
    return install("acme-audio", PLUGIN).Audio


def test_builtins_go_through_the_hooks() -> None:
    assert [each.spec.name for each in REGISTRY.registered(SEGMENT_CODECS_HOOK)][:2] == ["text", "image"]
    assert [each.spec.name for each in REGISTRY.registered(TEMPLATES_HOOK)][:2] == ["chat", "completion"]
    assert {each.distribution for each in REGISTRY.registered(SEGMENT_CODECS_HOOK)[:2]} == {"chameleon-text"}


def test_a_custom_segment_becomes_ids_and_comes_back(audio: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    document = [Text("a"), audio((1, 7)), audio(()), Text("<audio_1>")]
    ids = processor.encode(document)
    assert processor.decode(ids) == "<s>a<audio><audio_1><audio_7></audio><audio></audio><audio_1>"
    assert processor.decode_document(ids) == document
    assert processor.decode_document(ids[:3]) == [Text("a"), audio(())]


def test_a_custom_segment_is_written_in_json_and_in_messages(audio: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    document = [audio((1, 7))]
    assert document_to_json(document) == '[{"type": "audio", "codes": [1, 7]}]'
    assert document_from_json(document_to_json(document)) == document
    messages = [{"role": "user", "content": [{"type": "audio", "codes": [1, 7]}]}]
    assert processor.decode_messages(processor.encode_messages(messages)) == messages
    with pytest.raises(DocumentError, match="part 0, of type 'audio'"):
        document_from_parts([{"type": "audio"}])


def test_a_vocabulary_without_a_modality_is_an_error_only_where_it_is_used(audio: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer())
    assert processor.decode_document(processor.encode("text")) == [Text("text")]
    with pytest.raises(DocumentError, match=r"'audio' of acme-audio 0\.2 can't be used here: the vocabulary has no"):
        processor.encode([audio((1,))])


def test_a_codec_that_is_passed_replaces_the_installed_one(audio: Any) -> None:
    tokenizer = make_tokenizer(more_specials=AUDIO)

    class Deaf:
        ids = frozenset({tokenizer.token_ids["<audio>"]})

        def encode(self, segments: Any) -> Any:
            return [[tokenizer.token_ids["<audio>"]] for _ in segments]

        def decode(self, ids: Any, start: int) -> Any:
            return audio(()), start + 1

    processor = ChameleonProcessor(tokenizer, segment_codecs={"audio": Deaf()})
    assert processor.decode(processor.encode([audio((1,))])) == "<s><audio>"
    with pytest.raises(UnknownPluginError, match="no segment codec named 'adio'"):
        ChameleonProcessor(tokenizer, segment_codecs={"adio": Deaf()})
    Deaf.ids = frozenset({tokenizer.token_ids["the"]})
    with pytest.raises(ConfigError, match=r"'audio': its id .*'the'.* already belongs to the codec 'text'"):
        ChameleonProcessor(tokenizer, segment_codecs={"audio": Deaf()})


def test_a_custom_template_renders_and_parses(audio: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer(), template="shout")
    assert processor.decode(processor(text="a").input_ids[0]) == "<s>a<sentinel:0>"
    turns = [Turn("user", (Text("a"),)), Turn("user", (Text("the"),))]
    assert processor.decode_turns(processor.encode_messages(turns)) == turns


def test_a_codec_that_fails_stops_only_its_own_segments(install: Installer) -> None:
    module = install("acme-audio", PLUGIN.replace('if "<audio>" in context.tokenizer.token_ids else', "if True else"))
    with pytest.warns(
        PluginWarning, match=r"segment codec 'audio' of acme-audio 0\.2 is not used: .*factory: KeyError"
    ):
        processor = ChameleonProcessor(make_tokenizer())
    assert processor.decode_document(processor.encode("text")) == [Text("text")]
    with pytest.raises(DocumentError, match=r"'audio' of acme-audio 0\.2 can't be used here: .*KeyError"):
        processor.encode([module.Audio((1,))])


def test_a_codec_whose_check_fails_or_returns_no_sentence_is_left_out(install: Installer) -> None:
    install("acme-audio", PLUGIN.replace("return None if", "return 7 if"))
    with pytest.warns(PluginWarning, match=r"'audio' of acme-audio 0\.2 is not used: .* returned 7 from unsupported"):
        ChameleonProcessor(make_tokenizer(more_specials=AUDIO))


def test_a_codec_whose_ids_are_taken_is_left_out(install: Installer) -> None:
    module = install("acme-audio", PLUGIN.replace("self.ids = {", "self.ids = {context.vocabulary.begin_image_id, "))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(DocumentError, match=r"'<racm3:break>'.* already belongs to the codec 'image'"):
        processor.encode([module.Audio((1,))])


def test_a_codec_that_reads_nothing_is_an_error(install: Installer) -> None:
    install("acme-audio", PLUGIN.replace("position + closed)", "start)"))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(BrokenPluginError, match=r"'audio' of acme-audio 0\.2 returned the end 0 .*must read one id"):
        processor.decode_document([processor.tokenizer.token_ids["<audio>"]])


def test_a_spec_without_a_field_that_the_hook_needs_is_quarantined(install: Installer) -> None:
    install(
        "acme-wrong",
        """
        from chameleon_text import HOOK_API_VERSION, PluginSpec, hookimpl

        @hookimpl
        def chameleon_text_segment_codecs():
            return [PluginSpec(name="audio", factory=object, api_version=HOOK_API_VERSION)]
        """,
    )
    with pytest.warns(PluginWarning, match="returned the spec 'audio' without segment"):
        processor = ChameleonProcessor(make_tokenizer())
    assert processor.decode_document(processor.encode("text")) == [Text("text")]
    with pytest.raises(BrokenPluginError, match=r"'audio' of acme-wrong 0\.2 can't be used: .* without segment"):
        document_from_parts([{"type": "audio"}])


def test_an_unknown_segment_is_an_error(audio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")
    REGISTRY.reload()
    with pytest.raises(DocumentError, match=r"no installed codec is for Audio segments\. Installed: Text, Image"):
        ChameleonProcessor(make_tokenizer()).encode([audio((1,))])


def ids_of(processor: ChameleonProcessor) -> list[int]:
    return [processor.tokenizer.token_ids["<audio>"]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("self.ids = {self.begin", "self.ids = {'a', self.begin", "one of its ids is a str"),
        ("self.ids = {self.begin", "self.ids = {99999, self.begin", "its id 99999 has no name"),
        ("def encode(", "def encodes(", "it has no method encode"),
    ],
)
def test_a_codec_that_is_no_codec_is_left_out(old: str, new: str, said: str, install: Installer) -> None:
    module = install("acme-audio", PLUGIN.replace(old, new))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(DocumentError, match=rf"'audio' of acme-audio 0\.2 can't be used.*{said}"):
        processor.encode([module.Audio((1,))])


# A panic of Rust is a BaseException, too.
@pytest.mark.parametrize("raised", ["ValueError('why')", "SystemExit(3)", "BaseException('panic')"])
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("def encode(self, segments):", lambda processor, audio: processor.encode([audio((1,))])),
        ("def decode(self, ids, start):", lambda processor, audio: processor.decode_document(ids_of(processor))),
        ("def render(self, turns):", lambda processor, audio: processor.encode("a", template="shout")),
        ("def parse(self, segments):", lambda processor, audio: processor.decode_turns([4], template="shout")),
    ],
)
def test_whatever_a_plugin_raises_is_an_error_that_names_it(
    method: str, call: Any, raised: str, install: Installer
) -> None:
    audio = install("acme-audio", PLUGIN.replace(method, f"{method}\n            raise {raised}")).Audio
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(BrokenPluginError, match=rf"of acme-audio 0\.2 failed, .*{raised.partition('(')[0]}: "):
        call(processor, audio)


def test_an_error_of_the_package_in_a_plugin_keeps_its_class_and_names_it(install: Installer) -> None:
    raises = "def encode(self, segments):\n            from chameleon_text import DocumentError as E; raise E('why')"
    audio = install("acme-audio", PLUGIN.replace("def encode(self, segments):", raises)).Audio
    with pytest.raises(DocumentError) as caught:
        ChameleonProcessor(make_tokenizer(more_specials=AUDIO)).encode([audio((1,))])
    assert str(caught.value) == "why"
    assert caught.value.__notes__ == ["Raised by the segment codec 'audio' of acme-audio 0.2, encoding segments."]


def test_an_interruption_in_a_plugin_passes(install: Installer) -> None:
    raises = "def render(self, turns):\n            raise KeyboardInterrupt"
    install("acme-audio", PLUGIN.replace("def render(self, turns):", raises))
    with pytest.raises(KeyboardInterrupt):
        ChameleonProcessor(make_tokenizer(), template="shout").encode("a", template="shout")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("return [3 for _ in segments]; [[self.begin", "returned invalid ids"),
        ("return []; [[self.begin", "returned 0 rows of ids for 1 segments"),
        ("return None; [[self.begin", "failed, encoding segments: TypeError"),
        ("return [[4, self.begin", "returned the id 4, which isn't one of its ids"),
        ("return [[1.5", "returned invalid ids"),
    ],
)
def test_ids_that_a_codec_may_not_write_are_an_error_that_names_it(new: str, said: str, install: Installer) -> None:
    audio = install("acme-audio", PLUGIN.replace("return [[self.begin", new)).Audio
    with pytest.raises(BrokenPluginError, match=rf"'audio' of acme-audio 0\.2 {said}"):
        ChameleonProcessor(make_tokenizer(more_specials=AUDIO)).encode([audio((1,))])


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("None", "failed, decoding the ids from position 0: TypeError"),
        ("Decoded('a', position + closed)", "returned a str from decode"),
        ("Decoded(Audio(()), 10**6)", "returned the end 1000000"),
        ("Decoded(Audio(()), 1.5)", "failed, decoding the ids from position 0: TypeError"),
    ],
)
def test_what_a_codec_may_not_read_is_an_error_that_names_it(new: str, said: str, install: Installer) -> None:
    install("acme-audio", PLUGIN.replace("return Decoded(Audio(tuple(codes)), position + closed)", f"return {new}"))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(BrokenPluginError, match=rf"'audio' of acme-audio 0\.2 {said}"):
        processor.decode_document(ids_of(processor))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("factory=Shout", "factory=int", "returned 0 where an object with a method render"),
        ("return [Piece(segment)", "return None; [Piece(segment)", "returned None from render"),
        ("return [Piece(segment)", "return ['a']; [Piece(segment)", "returned a str among the pieces"),
        ('return [Turn("user"', 'return 3; [Turn("user"', "returned 3 from parse"),
    ],
)
def test_what_a_template_may_not_return_is_an_error_that_names_it(
    old: str, new: str, said: str, install: Installer
) -> None:
    install("acme-audio", PLUGIN.replace(old, new))
    processor = ChameleonProcessor(make_tokenizer())
    with pytest.raises(BrokenPluginError, match=rf"the template 'shout' of acme-audio 0\.2 {said}"):
        processor.decode_turns(processor.encode("a", template="shout"), template="shout")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("load=lambda fields: 1 / 0", "failed, reading part 0.*ZeroDivisionError"),
        ("load=lambda fields: 3", "returned 3 from load"),
        ("dump=lambda segment: 1 / 0", "failed, writing a segment as JSON: ZeroDivisionError"),
        ("dump=lambda segment: 3", "returned 3 from dump"),
    ],
)
def test_json_of_a_plugin_that_goes_wrong_is_an_error_that_names_it(fields: str, said: str, install: Installer) -> None:
    audio = install("acme-audio", PLUGIN.replace("segment=Audio, ", f"segment=Audio, {fields}, ")).Audio
    with pytest.raises(BrokenPluginError, match=rf"'audio' of acme-audio 0\.2 {said}"):
        document_from_json(document_to_json([audio((1,))]))


@pytest.mark.parametrize("template", [3, ["chat"], b"chat"])
def test_a_template_is_named_by_a_str(template: Any) -> None:
    with pytest.raises(ConfigError, match="expected the name of one"):
        ChameleonProcessor(make_tokenizer()).encode("a", template=template)


@pytest.mark.parametrize(
    "broken",
    [
        ("factory=AudioCodec, unsupported=lacking,", "factory=lambda context: 1 / 0,"),
        ("unsupported=lacking,", "unsupported=lambda context: 1 / 0,"),
        ("from chameleon_text", "raise RuntimeError('no driver')\nfrom chameleon_text"),
    ],
)
def test_one_broken_plugin_fails_no_suite_of_others(
    broken: tuple[str, str], install: Installer, tmp_path: Path
) -> None:
    with contextlib.suppress(RuntimeError):
        install("acme-audio", textwrap.dedent(PLUGIN).replace(*broken))
    (tmp_path / "test_others.py").write_text(
        textwrap.dedent(
            """
            from chameleon_text import Image
            from chameleon_text.testing import SegmentCodecConformance, TemplateConformance

            class TestImages(SegmentCodecConformance):
                name = "image"

                def segments(self):
                    return [Image(codes=(1, 2, 3, 4)), Image(codes=())]

            class TestChat(TemplateConformance):
                name = "chat"
            """
        )
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_others.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
