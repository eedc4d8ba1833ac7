"""The third modality: the toolkit's conformance suite, and how a melody is written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st

from acme_backend.melody import TOKENS, Melody
from chameleon_text import ChameleonProcessor, DocumentError, Segment, Text, document_from_json, document_to_json
from chameleon_text.testing import SegmentCodecConformance, make_tokenizer

SCALE = Melody((60, 62, 64, 65, 67, 69, 71, 72))


class TestMelodyCodec(SegmentCodecConformance):
    """To ids and back, amid text and pictures, cut off anywhere, and through JSON."""

    name = "melody"
    more_specials = TOKENS

    def segments(self) -> Sequence[Segment]:
        return [SCALE, Melody(()), Melody((0, 127, 127))]

    def drawn_segments(self) -> st.SearchStrategy[Segment]:
        return st.lists(st.integers(0, 127)).map(lambda notes: Melody(tuple(notes)))


def test_a_melody_is_written_by_the_names_of_its_notes() -> None:
    text = '[{"type": "text", "text": "A scale:"}, {"type": "melody", "notes": "C4 D4 E4 F4 G4 A4 B4 C5"}]'
    assert document_from_json(text) == [Text("A scale:"), SCALE]
    assert document_to_json([Text("A scale:"), SCALE]) == text


def test_a_melody_takes_one_id_a_note_and_two() -> None:
    processor = ChameleonProcessor(make_tokenizer(more_specials=TOKENS))
    assert len(processor.encode(SCALE, add_bos=False)) == len(SCALE.notes) + 2


@pytest.mark.parametrize("notes", ['"H4"', '"C10"', "[60]", "null"])
def test_what_is_not_a_melody_is_refused(notes: str) -> None:
    with pytest.raises(DocumentError, match="note"):
        document_from_json(f'[{{"type": "melody", "notes": {notes}}}]')


def test_an_unknown_note_is_refused() -> None:
    with pytest.raises(DocumentError, match="from 0 to 127, got 128"):
        Melody((60, 128))


def test_a_vocabulary_without_the_tokens_says_what_it_lacks() -> None:
    with pytest.raises(DocumentError, match=r"'melody' of .* can't be used here: the vocabulary lacks 130"):
        ChameleonProcessor(make_tokenizer()).encode(SCALE)
