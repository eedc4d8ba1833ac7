"""A third-party modality and template, from a distribution made for the test."""

from __future__ import annotations

import importlib
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
    with pytest.raises(DocumentError, match="'audio' can't be used here: the vocabulary has no '<audio>'"):
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
    with pytest.warns(PluginWarning, match="segment codec 'audio' is not used: KeyError"):
        processor = ChameleonProcessor(make_tokenizer())
    assert processor.decode_document(processor.encode("text")) == [Text("text")]
    with pytest.raises(DocumentError, match="'audio' can't be used here: KeyError"):
        processor.encode([module.Audio((1,))])


def test_a_codec_whose_ids_are_taken_is_left_out(install: Installer) -> None:
    module = install("acme-audio", PLUGIN.replace("self.ids = {", "self.ids = {context.vocabulary.begin_image_id, "))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(DocumentError, match=r"'<racm3:break>'.* already belongs to the codec 'image'"):
        processor.encode([module.Audio((1,))])


def test_a_codec_that_reads_nothing_is_an_error(install: Installer) -> None:
    install("acme-audio", PLUGIN.replace("position + closed)", "start)"))
    processor = ChameleonProcessor(make_tokenizer(more_specials=AUDIO))
    with pytest.raises(DocumentError, match="the codec of Audio read no id at position 0"):
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
