"""The contract of picture grammars: what may come after begin-image, up to end-image.

A grammar writes a picture of any of its grids as ids that are forced (sizes, ends of rows, end-image) and codes. What
may come next is either a code, any of them, or one of some ids that aren't codes, so that a reader always knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..protocols import OpenSegmentLike


class Grid(NamedTuple):
    """The positions of a picture's codes, which are written from top to bottom and from left to right."""

    height: int
    """How many positions there are from top to bottom, ≥ 1."""
    width: int
    """How many positions there are from left to right, ≥ 1."""


@dataclass(frozen=True, kw_only=True)
class GrammarContext:
    """What a grammar is made from: the names of the vocabulary, and the image tokenizer's numbers."""

    token_ids: Mapping[str, int]
    """The id of each name of the vocabulary."""
    code_ids: Sequence[int]
    """The id of each picture code, from code 0 on."""
    begin_image_id: int
    """The id before every picture."""
    end_image_id: int
    """The id after every picture."""
    grid: Grid
    """The grid of a picture of the image tokenizer's own resolution."""
    codes_per_position: int = 1
    """How many codes each position has, which are written one after the other, ≥ 1; 1 by default."""
    stride: int = 16
    """How many pixels a position has in each direction, ≥ 1; 16 by default."""


class OpenPicture(OpenSegmentLike, Protocol):
    """A picture that is being written: what may come next in it. It never changes; ``accept`` returns the next one."""

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        """The ids that may come next, at least one and no code's; None where any picture code may and nothing else."""
        ...

    @property
    def grid(self) -> Grid | None:
        """Its grid; None while several are possible."""
        ...

    @property
    def codes_left(self) -> int | None:
        """How many codes it lacks; None while several grids are possible."""
        ...

    @property
    def ids_left(self) -> int:
        """The largest number of ids that still belong to it, end-image included."""
        ...

    @property
    def least_ids_left(self) -> int:
        """The smallest number of ids that still belong to it, end-image included."""
        ...

    def accept(self, token_id: int, /) -> OpenPicture | None:
        """Return the picture after one more id, which is one that may come; None after end-image."""
        ...


class PictureGrammar(Protocol):
    """How pictures are written. ``chameleon_core.testing.PictureGrammarConformance`` checks one."""

    @property
    def grids(self) -> Sequence[Grid]:
        """Every grid that a picture may have, at least one."""
        ...

    @property
    def marker_ids(self) -> frozenset[int]:
        """The ids that it writes besides codes, begin-image and end-image. Text can't have them."""
        ...

    def open(self, grids: Sequence[Grid], /) -> OpenPicture:
        """Return the picture that begin-image opens, whose grid is to be one of ``grids``, of which there is one."""
        ...
