"""The state of each row: what may come next, which is text, begin-image, or what the open picture lacks.

Rows of one batch are in different states at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ContextLengthError, GenerationError
from ..layout import TokenLayout
from ..picture_grammars import Grid, OpenPicture
from .fixed_codes import PartlyFixed, fixed_ids
from .options import GenerationOptions, Modality

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
    grid: Grid | None = None
    """The grid of the pictures that the row writes; None leaves the choice to the model where there is one."""
    new_ids: list[int] = field(default_factory=list)
    """The ids after the prompt."""
    fixed_ids: tuple[int | None, ...] = ()
    """The ids of the picture's codes that are given, None for the others; empty where none is."""
    picture: OpenPicture | None = None
    """The picture that the row is in; None outside of pictures."""
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
    def wants_code(self) -> bool:
        """Whether the next id is a picture code."""
        return self.picture is not None and self.picture.next_ids is None

    @property
    def lacks_codes(self) -> bool:
        """Whether the row is in a picture whose codes aren't complete."""
        return self.picture is not None and self.picture.codes_left != 0

    @property
    def forced_id(self) -> int | None:
        """The next id where only one is allowed, else None."""
        if self.layout is None or self.finish_reason is not None:
            return None
        if self.picture is not None:
            next_ids = self.picture.next_ids
            return next_ids[0] if next_ids is not None and len(next_ids) == 1 else None
        return self.layout.begin_image_id if self.modality == "image" else None

    def may_begin_image(self, ahead: int = 0) -> bool:
        """Return whether begin-image may come ``ahead`` ids after the last one and the next.

        That is so for a picture that fits the limit, or because begin-image ends the row.
        """
        if self.layout is None:
            return False
        if self.layout.begin_image_id in self.stop_ids:
            return True
        if self.modality != "interleaved":
            return False
        if self.max_images is not None and self.images_begun >= self.max_images:
            return False
        return self.room - ahead >= self.layout.pictures.least_ids(self.grid)

    def why_not_next(self, token_id: int) -> str | None:
        """Return why an id can't be next, as a clause for an error message; None where it can."""
        if self.finish_reason is not None:
            return f"comes after the row's end ({self.finish_reason})"
        if self.layout is None or token_id in self.stop_ids:
            return None
        if self.picture is not None:
            can_come = self.layout.pictures.may_come(self.picture, token_id)
            return None if can_come else "can't come there in a picture"
        if token_id == self.layout.begin_image_id:
            may_begin = self.modality == "image" or self.may_begin_image()
            return None if may_begin else f"begins a picture, for which modality={self.modality!r} has no room here"
        if self.modality == "image":
            return "isn't a picture's, and modality='image' writes one picture"
        return None if self.layout.text_allowed_V[token_id] else "is no id of text"

    def accept(self, token_id: int) -> None:
        """Append the next id and update the state."""
        self.new_ids.append(token_id)
        if token_id in self.stop_ids:
            self.finish_reason = "stop"
        elif self.picture is not None:
            self.picture = self.picture.accept(token_id)
            if self.picture is None and self.modality == "image":
                self.finish_reason = "stop"
        elif self.layout is not None and token_id == self.layout.begin_image_id:
            self.picture = self.layout.pictures.open(room=self.room, grid=self.grid)
            if self.fixed_ids and self.picture is not None:
                self.picture = PartlyFixed(self.picture, self.fixed_ids)
            self.images_begun += 1
        if self.finish_reason is None and self.room <= 0:
            self.finish_reason = "length"


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
            f"modality={options.modality!r} needs the ids of pictures, and the config has no vocabulary_map."
        )
    grid = None
    if layout is not None and options.image_size is not None:
        grid = layout.pictures.grid_of_size(*options.image_size)
    inside = None if layout is None else _inside_a_picture(index, prompt, layout)
    picture = None if layout is None or inside is None else _reopened(index, inside, layout, grid)
    if picture is not None and options.modality == "text":
        raise GenerationError(
            f"row {index} ends inside a picture, which modality='text' can't complete; use 'image' or 'interleaved'."
        )
    room = context_length - len(prompt)
    needed, most = 1, room
    if layout is not None and options.modality == "image":
        pictures = layout.pictures
        needed = pictures.least_ids(grid) if picture is None else picture.least_ids_left
        most = pictures.most_ids(grid) if picture is None else picture.ids_left
    limit = options.max_new_tokens
    if limit is None:
        limit = max(needed, min(most, room))
    if limit < needed:
        raise GenerationError(
            f"a picture needs {needed} more ids; max_new_tokens is {limit}. Raise it, or leave it out."
        )
    if limit > room:
        raise ContextLengthError(
            f"row {index} has {len(prompt)} ids and may take {limit} more, together {len(prompt) + limit}; "
            f"the context holds {context_length}. Shorten the prompt by {limit - room} or lower max_new_tokens."
        )
    if layout is not None and inside is not None and picture is not None and picture.least_ids_left <= limit:
        # Of the sizes that are still possible, those that fit.
        picture = _reopened(index, inside, layout, grid, room=len(inside) + limit)
    fixed = () if layout is None or not options.fixed_codes else fixed_ids(options.fixed_codes, layout, grid)
    if fixed and picture is not None and picture.codes_left is not None:
        picture = PartlyFixed(picture, fixed[len(fixed) - picture.codes_left :])
    return Row(
        index, tuple(prompt), options.modality, limit, options.max_images, stop_ids, layout, grid, [], fixed, picture
    )


def _inside_a_picture(index: int, prompt: Sequence[int], layout: TokenLayout) -> Sequence[int] | None:
    """Return the ids after the begin-image of the picture that the prompt leaves open; None where it ends in text."""
    if layout.placeholder_id in prompt:
        raise GenerationError(
            f"row {index} holds {prompt.count(layout.placeholder_id)} image placeholders; "
            "pass the pictures as pixel_values, or encode the prompt with real ids."
        )
    begin = max((place for place, token_id in enumerate(prompt) if token_id == layout.begin_image_id), default=None)
    if begin is None or layout.end_image_id in prompt[begin:]:
        return None
    return prompt[begin + 1 :]


def _reopened(
    index: int, inside: Sequence[int], layout: TokenLayout, grid: Grid | None, room: int | None = None
) -> OpenPicture:
    """Return the picture after the ids after begin-image; ``room`` is how many ids it may have after begin-image."""
    pictures = layout.pictures
    strays = [each for each in inside if each not in layout.picture_ids and each not in pictures.marker_ids]
    if strays:
        raise GenerationError(
            f"row {index} ends inside a picture that holds ids {strays[:8]}, which aren't picture codes; "
            f"end it with end-image (id {layout.end_image_id})."
        )
    picture = pictures.open(room=room, grid=grid)
    assert picture is not None
    for place, token_id in enumerate(inside):
        if not pictures.may_come(picture, token_id):
            raise GenerationError(_misplaced(index, inside, place, picture, layout))
        following = picture.accept(token_id)
        assert following is not None
        picture = following
    return picture


def _misplaced(index: int, inside: Sequence[int], place: int, picture: OpenPicture, layout: TokenLayout) -> str:
    """Return what is wrong with a picture at the end of a prompt in which an id can't come where it does."""
    if picture.grid is not None and picture.codes_left == 0 and inside[place] in layout.picture_ids:
        count = sum(token_id in layout.picture_ids for token_id in inside)
        return (
            f"row {index} ends in a picture of {count} codes without end-image; "
            f"a picture has {layout.pictures.num_codes(picture.grid)}."
        )
    allowed = "a picture code" if picture.next_ids is None else f"one of {list(picture.next_ids[:8])}"
    return (
        f"row {index} ends inside a picture, in which id {inside[place]} comes {place + 1} ids after begin-image; "
        f"expected {allowed}. Correct the prompt, or image_size where it is another picture's."
    )
