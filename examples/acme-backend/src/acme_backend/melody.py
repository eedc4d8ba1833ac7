"""A melody in a document: one id for each note, between a begin and an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from chameleon_text import CodecContext, Decoded, DocumentError, Segment

LETTERS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NAMES = tuple(f"{LETTERS[note % 12]}{note // 12 - 1}" for note in range(128))
"""The names of MIDI's notes; 60, the middle C, is C4."""

TOKENS = tuple(f"<reserved{number:05}>" for number in range(8708, 8708 + 2 + len(NAMES)))
"""Begin, end and the notes: a range of the tokens that Chameleon's vocabulary reserves.

So a published model can be fine-tuned on melodies as it is. They are found by name, so the order of their ids is free.
"""


class Melody(Segment, frozen=True):
    """A tune: MIDI notes, 0 to 127, one after the other."""

    notes: tuple[int, ...]

    def __post_init__(self) -> None:
        for note in self.notes:
            if note not in range(len(NAMES)):
                raise DocumentError(f"a melody's notes must be integers from 0 to 127, got {note!r}.")


class MelodyCodec:
    """The contract of ``chameleon_text.SegmentCodec``."""

    def __init__(self, context: CodecContext) -> None:
        self._begin, self._end, *self._note_ids = (context.tokenizer.token_ids[name] for name in TOKENS)
        self._notes = {token_id: note for note, token_id in enumerate(self._note_ids)}
        self.ids = frozenset((self._begin, self._end, *self._note_ids))
        self.grammar = MelodyGrammar(self._begin, self._end, tuple(self._note_ids))

    def encode(self, segments: Sequence[Melody]) -> list[list[int]]:
        """Return the ids of each melody."""
        return [[self._begin, *(self._note_ids[note] for note in each.notes), self._end] for each in segments]

    def decode(self, ids: Sequence[int], start: int) -> Decoded:
        """Return the melody at ``start``; a model may have left out its begin or its end."""
        first = start + (ids[start] == self._begin)
        note_ids = takewhile(self._notes.__contains__, islice(ids, first, None))
        notes = tuple(self._notes[token_id] for token_id in note_ids)
        end = first + len(notes)
        closed = end < len(ids) and ids[end] == self._end
        return Decoded(Melody(notes), end + closed)


@dataclass(frozen=True)
class MelodyGrammar:
    """The contract of ``chameleon_text.SegmentGrammar``: a model may write any notes, then the end."""

    begin_id: int
    end_id: int
    note_ids: tuple[int, ...]

    @property
    def begin_ids(self) -> tuple[int]:
        """The id that begins a melody."""
        return (self.begin_id,)

    def open(self, begin_id: int, room: int | None) -> OpenMelody:
        """Return the melody after its begin, which may have ``room`` ids more."""
        return OpenMelody(self, room)


@dataclass(frozen=True)
class OpenMelody:
    """A melody that is being written."""

    grammar: MelodyGrammar
    ids_left: int | None
    """How many ids it may have more, the end included; None for any number."""
    least_ids_left = 1

    @property
    def next_ids(self) -> tuple[int, ...]:
        """A note or the end, which comes last of all."""
        end = (self.grammar.end_id,)
        return end if self.ids_left == 1 else self.grammar.note_ids + end

    def accept(self, token_id: int) -> OpenMelody | None:
        """Return the melody after one more id; None after its end."""
        if token_id == self.grammar.end_id:
            return None
        return OpenMelody(self.grammar, None if self.ids_left is None else self.ids_left - 1)


def melody_fields(melody: Melody) -> dict[str, Any]:
    """Return the fields of a melody in JSON: ``{"type": "melody", "notes": "C4 E4 G4"}``."""
    return {"notes": " ".join(NAMES[note] for note in melody.notes)}


def melody_of_fields(fields: dict[str, Any]) -> Melody:
    """Return the melody of the fields in JSON. Raises ``DocumentError`` where they aren't a melody's."""
    notes = fields.get("notes")
    if not isinstance(notes, str):
        raise DocumentError(f"a melody's notes must be a string such as 'C4 E4 G4', got {notes!r}.")
    unknown = [name for name in notes.split() if name not in NAMES]
    if unknown:
        raise DocumentError(f"{unknown[0]!r} is not a note; notes are {NAMES[0]} to {NAMES[-1]}.")
    return Melody(tuple(NAMES.index(name) for name in notes.split()))
