"""Picture grammars: how a picture is written as ids between begin-image and end-image.

Chameleon writes the codes of one fixed grid, row by row, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..layout import TokenLayout


class OpenPicture(Protocol):
    """A picture that is being written: what may come next in it. It never changes; ``accept`` returns the next one."""

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """The ids that may come next, at least one; None where any picture code may."""
        ...

    @property
    def codes_left(self) -> int | None:
        """How many codes it lacks; None while its size is open."""
        ...

    @property
    def ids_left(self) -> int:
        """The largest number of ids that still belong to it, end-image included."""
        ...

    def accept(self, token_id: int, /) -> OpenPicture | None:
        """Return the picture after one more id; None once it is complete."""
        ...


@dataclass(frozen=True, slots=True)
class FixedGrid:
    """An open picture of Chameleon: codes until the grid is full, then end-image."""

    end_image_id: int
    """The id after the codes."""
    codes_left: int
    """How many codes it lacks."""

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """End-image once the grid is full; before, any code."""
        return None if self.codes_left else (self.end_image_id,)

    @property
    def ids_left(self) -> int:
        """The codes that it lacks, and end-image."""
        return self.codes_left + 1

    def accept(self, token_id: int) -> FixedGrid | None:
        """Return the picture with one code more; None after end-image."""
        return FixedGrid(self.end_image_id, self.codes_left - 1) if self.codes_left else None


def open_picture(layout: TokenLayout) -> OpenPicture:
    """Return the picture that begin-image opens."""
    return FixedGrid(layout.end_image_id, layout.tokens_per_image)
