"""The state of each row: what may come next, which is text, what begins a segment, or what the open segment lacks.

Rows of one batch are in different states at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from .._boundary import translates_errors
from ..errors import ContextLengthError, GenerationError
from ..layout import TokenLayout
from ..picture_grammars import OpenPicture
from ..protocols import OpenSegmentLike
from .fixed_codes import fixed_ids
from .left_open import left_open
from .options import GenerationOptions, Modality
from .segment_kinds import PICTURE, Beginning, Kind, beginnings, called, unknown_modality, writable

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
"""Why a row ended: it was complete, it reached the largest number of new ids, its request was cancelled, its time was
over, or an error ended it."""


@dataclass(slots=True)
class Row:
    """One row of a request: its ids so far and its state."""

    index: int
    """The index of the row in the request."""
    prompt: tuple[int, ...]
    """The ids of the prompt."""
    modality: Modality
    """What the row may write."""
    limit: int
    """The largest number of ids that may follow the prompt."""
    max_images: int | None
    """The largest number of pictures that the row may begin; None for no limit."""
    stop_ids: frozenset[int]
    """The ids that end the row."""
    layout: TokenLayout | None
    """The meaning of the ids; None where it is unknown and all ids are text."""
    beginnings: Mapping[int, Beginning]
    """The ids that begin segments in what the layout knows, whether the row may write these or not."""
    kind: Kind = "text"
    """What is written next: "text", or a segment of a kind, "image" for pictures."""
    segment: OpenSegmentLike | None = None
    """The segment that the row is in; None in text, and where the only segment of a row hasn't begun."""
    new_ids: list[int] = field(default_factory=list)
    """The ids after the prompt."""
    images_begun: int = 0
    """The number of pictures that the row has begun after the prompt."""
    finish_reason: FinishReason | None = None
    """Why the row ended; None while it runs."""
    also_text: frozenset[int] = frozenset()
    """The end-of-stream ids of the vocabulary, which text may hold where others end the row."""

    @property
    def ids(self) -> list[int]:
        """The prompt and the ids after it."""
        return [*self.prompt, *self.new_ids]

    @property
    def room(self) -> int:
        """How many ids more the row may take."""
        return self.limit - len(self.new_ids)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the row may write: "text", and the kinds of segments."""
        if self.modality != "interleaved":
            return (self.modality,)
        return ("text", *dict.fromkeys(each.name for each in self.beginnings.values()))

    @property
    def picture(self) -> OpenPicture | None:
        """The picture that the row is in; None outside of pictures."""
        return cast(OpenPicture, self.segment) if self.kind == PICTURE and self.segment is not None else None

    @property
    def lacks_codes(self) -> bool:
        """Whether the row is in a picture whose codes aren't complete."""
        return self.picture is not None and self.picture.codes_left != 0

    @property
    def wants_code(self) -> bool:
        """Whether the next id is a picture code, and any of them may come."""
        return self.segment is not None and self.segment.next_ids is None

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """The ids that may come next; None where any picture code may, or text."""
        if self.segment is not None:
            return self.segment.next_ids
        return None if self.kind == "text" else tuple(each.begin_id for each in self._only)

    @property
    def forced_id(self) -> int | None:
        """The next id where only one is allowed, else None."""
        next_ids = None if self.finish_reason is not None else self.next_ids
        return next_ids[0] if next_ids is not None and len(next_ids) == 1 else None

    @property
    def least_ids(self) -> int:
        """How many ids the row needs at least to be complete: to the end of the only segment that it writes."""
        if self.kind == "text" or self.modality == "interleaved":
            return 1
        return self.segment.least_ids_left if self.segment is not None else min(each.least_ids for each in self._only)

    @property
    def most_ids(self) -> int:
        """How many ids the row can use at most: as many as the only segment has that it writes, or the room."""
        if self.kind == "text" or self.modality == "interleaved":
            return self.room
        found = [self.segment.ids_left] if self.segment is not None else [each.most_ids for each in self._only]
        return min(self.room, max(self.room if most is None else most for most in found))

    @property
    def _only(self) -> list[Beginning]:
        """What may begin the only segment that the row writes: all that fits."""
        own = [each for each in self.beginnings.values() if each.name == self.kind]
        return [each for each in own if each.least_ids <= self.room] or own

    def may_begin(self, begin_id: int, ahead: int = 0) -> bool:
        """Return whether a segment may begin by an id that comes ``ahead`` ids after the last one and the next.

        That is so for a segment that fits the limit, or because the id ends the row.
        """
        if begin_id not in self.beginnings:
            return False
        if begin_id in self.stop_ids:
            return True
        if self.modality != "interleaved":
            return False
        beginning = self.beginnings[begin_id]
        if beginning.name == PICTURE and self.max_images is not None and self.images_begun >= self.max_images:
            return False
        return self.room - ahead >= beginning.least_ids

    def why_not_next(self, token_id: int) -> str | None:
        """Return why an id can't be next, as a clause for an error message; None where it can."""
        if self.finish_reason is not None:
            return f"comes after the row's end ({self.finish_reason})"
        if self.layout is None or token_id in self.stop_ids:
            return None
        if self.segment is not None:
            next_ids = self.segment.next_ids
            can_come = token_id in (self.layout.picture_ids if next_ids is None else next_ids)
            return None if can_come else f"can't come there in {called(self.kind)}"
        if token_id in self.beginnings:
            beginning = self.beginnings[token_id]
            if beginning.name == self.modality or self.may_begin(token_id):
                return None
            return f"begins {beginning.called}, for which modality={self.modality!r} has no room here"
        if self.kind != "text":
            return f"doesn't begin {called(self.kind)}, and modality={self.modality!r} writes one"
        return None if self.layout.text_allowed_V[token_id] else "is no id of text"

    @translates_errors
    def accept(self, token_id: int) -> None:
        """Append the next id and update the state."""
        self.new_ids.append(token_id)
        if token_id in self.stop_ids:
            self.finish_reason = "stop"
        elif self.segment is not None:
            self._continue(self.segment.accept(token_id))
        elif token_id in self.beginnings:
            begun = self.beginnings[token_id]
            self.kind = begun.name
            self.images_begun += begun.name == PICTURE
            self._continue(begun.open(self.room))
        if self.finish_reason is None and self.room <= 0:
            self.finish_reason = "length"

    def _continue(self, segment: OpenSegmentLike | None) -> None:
        """Go into a segment, or out of one."""
        self.segment = segment
        if segment is None and self.modality == "interleaved":
            self.kind = "text"
        elif segment is None:
            self.finish_reason = "stop"


def start_row(
    index: int,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    layout: TokenLayout | None,
    context_length: int,
    stop_ids: frozenset[int],
) -> Row:
    """Return a row at the end of its prompt, which is inside a picture where the prompt leaves one open.

    Raises ``ContextLengthError`` where the context is too short for the request, ``GenerationError`` where the prompt
    and the options contradict each other.
    """
    if not prompt:
        raise GenerationError(f"row {index} of the batch is empty; a prompt needs at least one id.")
    if layout is None and options.modality != "text":
        raise GenerationError(
            f"modality={options.modality!r} needs the ids of pictures and other segments, and the config has no "
            "vocabulary_map."
        )
    grid = None
    if layout is not None and options.image_size is not None:
        grid = layout.pictures.grid_of_size(*options.image_size)
    fixed = () if layout is None or not options.fixed_codes else fixed_ids(options.fixed_codes, layout, grid)
    known = {} if layout is None else beginnings(layout, grid, fixed)
    if options.modality not in (modalities := writable(known.values())):
        raise unknown_modality(options.modality, modalities)
    kind = "text" if options.modality == "interleaved" else options.modality
    room = context_length - len(prompt)
    row = Row(index, tuple(prompt), options.modality, room, options.max_images, stop_ids, layout, known, kind)
    left = None if layout is None else left_open(index, prompt, layout, known)
    if left is not None:
        if options.modality not in ("interleaved", left.beginning.name):
            raise GenerationError(
                f"row {index} ends inside {left.beginning.called}, which modality={options.modality!r} can't "
                f"complete; use {left.beginning.name!r} or 'interleaved'."
            )
        row.kind, row.segment = left.beginning.name, left.segment
    needed = row.least_ids
    row.limit = max(needed, row.most_ids) if options.max_new_tokens is None else options.max_new_tokens
    if row.limit < needed:
        raise GenerationError(
            f"{called(row.kind)} needs {needed} more ids; max_new_tokens is {row.limit}. Raise it, or leave it out."
        )
    if row.limit > room:
        raise ContextLengthError(
            f"row {index} has {len(prompt)} ids and may take {row.limit} more, together {len(prompt) + row.limit}; "
            f"the context holds {context_length}. Shorten the prompt by {row.limit - room} or lower max_new_tokens."
        )
    if left is not None and left.segment.least_ids_left <= row.limit:
        # Of the ids that may come, those after which the segment can end within the limit.
        row.segment = left.within(row.limit)
    return row
