"""The segment that a prompt leaves open, which the row continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._boundary import translates_errors
from ..errors import GenerationError
from ..layout import TokenLayout
from ..protocols import OpenSegmentLike
from .fixed_codes import PartlyFixed
from .segment_kinds import PICTURE, Beginning


class LeftOpen(NamedTuple):
    """A segment that a prompt leaves open."""

    beginning: Beginning
    """What began it."""
    inside: Sequence[int]
    """The ids after the beginning."""
    segment: OpenSegmentLike
    """The segment after these ids."""

    def within(self, room: int) -> OpenSegmentLike:
        """Return the segment in which only those ids come after which it can end in ``room`` more."""
        segment = self.beginning.open(len(self.inside) + room)
        for token_id in self.inside:
            assert segment is not None
            segment = segment.accept(token_id)
        assert segment is not None
        return segment


@translates_errors
def left_open(
    index: int, prompt: Sequence[int], layout: TokenLayout, beginnings: Mapping[int, Beginning]
) -> LeftOpen | None:
    """Return the segment that the prompt of a row leaves open; None where it ends in text.

    Raises ``GenerationError`` where the ids of the segment aren't any.
    """
    if layout.placeholder_id in prompt:
        raise GenerationError(
            f"row {index} holds {prompt.count(layout.placeholder_id)} image placeholders; "
            "pass the pictures as pixel_values, or encode the prompt with real ids."
        )
    begin = max((place for place, token_id in enumerate(prompt) if token_id in beginnings), default=None)
    if begin is None:
        return None
    beginning, inside = beginnings[prompt[begin]], prompt[begin + 1 :]
    own_ids = layout.segment_ids(beginning.name)
    if beginning.name == PICTURE:
        if layout.end_image_id in inside:
            return None
        strays = [each for each in inside if each not in own_ids]
        if strays:
            raise GenerationError(
                f"row {index} ends inside a picture that holds ids {strays[:8]}, which aren't picture codes; "
                f"end it with end-image (id {layout.end_image_id})."
            )
    segment = beginning.open(None)
    for place, token_id in enumerate(inside):
        if segment is None:
            return None
        if not _may_come(segment, token_id, layout):
            if any(each not in own_ids for each in inside[place:]):
                return None  # what isn't the segment's ends it
            raise GenerationError(_misplaced(index, beginning, inside, place, segment, layout))
        segment = segment.accept(token_id)
    return None if segment is None else LeftOpen(beginning, inside, segment)


def _may_come(segment: OpenSegmentLike, token_id: int, layout: TokenLayout) -> bool:
    if isinstance(segment, PartlyFixed):
        segment = segment.picture  # the codes of the prompt are as they are
    return token_id in (layout.picture_ids if segment.next_ids is None else segment.next_ids)


def _misplaced(
    index: int, beginning: Beginning, inside: Sequence[int], place: int, segment: OpenSegmentLike, layout: TokenLayout
) -> str:
    """Return what is wrong with a segment at the end of a prompt in which an id can't come where it does."""
    is_picture = beginning.name == PICTURE
    if is_picture and segment.next_ids == (layout.end_image_id,):
        count = sum(token_id in layout.picture_ids for token_id in inside)
        expected = sum(token_id in layout.picture_ids for token_id in inside[:place])
        return f"row {index} ends in a picture of {count} codes without end-image; a picture has {expected}."
    allowed = "a picture code" if segment.next_ids is None else f"one of {list(segment.next_ids[:8])}"
    begin, hint = ("begin-image", ", or image_size where it is another picture's") if is_picture else ("its begin", "")
    return (
        f"row {index} ends inside {beginning.called}, in which id {inside[place]} comes {place + 1} ids after {begin}; "
        f"expected {allowed}. Correct the prompt{hint}."
    )
