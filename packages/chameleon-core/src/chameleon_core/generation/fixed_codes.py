"""A picture of which some codes are given: they are written as they are, and the model writes the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import GenerationError
from ..layout import TokenLayout
from ..picture_grammars import Grid, OpenPicture


@dataclass(frozen=True, slots=True)
class PartlyFixed:
    """An open picture whose next codes are given or None, in which case any may come."""

    picture: OpenPicture
    """The picture without the given codes."""
    fixed_ids: tuple[int | None, ...]
    """The ids of the codes that it lacks, in the order of writing; None where the code is open."""

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """The given code's id, or what the picture itself allows."""
        allowed = self.picture.next_ids
        if allowed is not None or not self.fixed_ids or self.fixed_ids[0] is None:
            return allowed
        return (self.fixed_ids[0],)

    @property
    def grid(self) -> Grid | None:
        """The grid of the picture."""
        return self.picture.grid

    @property
    def codes_left(self) -> int | None:
        """How many codes it lacks, given ones included."""
        return self.picture.codes_left

    @property
    def ids_left(self) -> int:
        """The largest number of ids that still belong to it."""
        return self.picture.ids_left

    @property
    def least_ids_left(self) -> int:
        """The smallest number of ids that still belong to it."""
        return self.picture.least_ids_left

    def accept(self, token_id: int) -> PartlyFixed | None:
        """Return the picture after one more id; None after end-image."""
        wants_code = self.picture.next_ids is None
        following = self.picture.accept(token_id)
        return (
            None if following is None else PartlyFixed(following, self.fixed_ids[1:] if wants_code else self.fixed_ids)
        )


def fixed_ids(codes: Sequence[int | None], layout: TokenLayout, grid: Grid | None) -> tuple[int | None, ...]:
    """Return the ids of given codes. Raises ``GenerationError`` where they aren't those of one picture."""
    pictures = layout.pictures
    if grid is None and len(pictures.grids) > 1:
        raise GenerationError("fixed_codes are those of one size of pictures: say which with image_size.")
    expected = pictures.num_codes(grid or pictures.grids[0])
    if len(codes) != expected:
        raise GenerationError(f"fixed_codes has {len(codes)} entries, one for each code; the picture has {expected}.")
    beyond = sorted({code for code in codes if code is not None and code >= layout.num_codes})
    if beyond:
        raise GenerationError(f"fixed_codes has codes {beyond[:8]}; the model's are 0…{layout.num_codes - 1}.")
    return tuple(None if code is None else int(layout.code_to_id_Z[code]) for code in codes)
