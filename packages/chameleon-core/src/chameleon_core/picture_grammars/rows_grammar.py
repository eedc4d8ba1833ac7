"""Pictures written by rows: the size where there is a choice, the rows of codes with what ends each, end-image."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import ConfigError
from .contract import GrammarContext, Grid, OpenPicture


@dataclass(frozen=True, kw_only=True)
class RowsGrammar:
    """A grammar whose pictures say their size first and have rows of codes after it.

    Raises ``ConfigError`` where the ids of one size begin with those of another, so that a reader couldn't tell them
    apart.
    """

    size_ids: Mapping[Grid, tuple[int, ...]]
    """The ids that say the size, for each grid; none where there is only one."""
    end_image_id: int
    """The id after the picture."""
    row_end_ids: tuple[int, ...] = ()
    """The ids after each row of codes; none by default."""
    codes_per_position: int = 1
    """How many codes each position of the grid has, ≥ 1; 1 by default."""

    def __post_init__(self) -> None:
        if not self.size_ids:
            raise ConfigError("a picture grammar needs at least one grid; got none.")
        ordered = sorted((ids, grid) for grid, ids in self.size_ids.items())
        for (ids, grid), (more, other) in itertools.pairwise(ordered):
            if more[: len(ids)] == ids:
                raise ConfigError(
                    f"the size of pictures of {grid.height}×{grid.width} codes is written as {ids}, with which that "
                    f"of {other.height}×{other.width}, {more}, begins. Give each size ids of its own."
                )

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Every grid that a picture may have."""
        return tuple(self.size_ids)

    @cached_property
    def marker_ids(self) -> frozenset[int]:
        """The ids of sizes and of ends of rows."""
        return frozenset(itertools.chain(self.row_end_ids, *self.size_ids.values()))

    def open(self, grids: Sequence[Grid]) -> OpenPicture:
        """Return the picture that begin-image opens, whose grid is one of ``grids``."""
        return _opened(self, tuple(grids), 0)

    def body_length(self, grid: Grid) -> int:
        """Return how many ids follow the size: codes, ends of rows and end-image."""
        return grid.height * self.line_length(grid) + 1

    def line_length(self, grid: Grid) -> int:
        """Return how many ids a row of codes has with its end."""
        return grid.width * self.codes_per_position + len(self.row_end_ids)


def fixed_grid(context: GrammarContext) -> RowsGrammar:
    """Return Chameleon's grammar: the codes of one grid, and nothing else."""
    return RowsGrammar(
        size_ids={context.grid: ()},
        end_image_id=context.end_image_id,
        codes_per_position=context.codes_per_position,
    )


def _opened(grammar: RowsGrammar, grids: tuple[Grid, ...], done: int) -> OpenPicture:
    """Return the picture after ``done`` ids of its size."""
    first = grids[0]
    if len(grids) == 1 and done == len(grammar.size_ids[first]):
        return _OpenRows(grammar, first)
    return _OpenSize(grammar, grids, done)


@dataclass(frozen=True, slots=True)
class _OpenSize:
    """A picture whose size isn't complete."""

    grammar: RowsGrammar
    grids: tuple[Grid, ...]
    """The grids that are possible, at least one."""
    done: int
    """How many ids of the size there are."""

    @property
    def next_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.grammar.size_ids[grid][self.done] for grid in self.grids))

    @property
    def grid(self) -> Grid | None:
        return self.grids[0] if len(self.grids) == 1 else None

    @property
    def codes_left(self) -> int | None:
        grid = self.grid
        return None if grid is None else grid.height * grid.width * self.grammar.codes_per_position

    @property
    def ids_left(self) -> int:
        return max(map(self._left, self.grids))

    @property
    def least_ids_left(self) -> int:
        return min(map(self._left, self.grids))

    def accept(self, token_id: int) -> OpenPicture:
        size_ids = self.grammar.size_ids
        grids = tuple(grid for grid in self.grids if size_ids[grid][self.done] == token_id)
        return _opened(self.grammar, grids, self.done + 1)

    def _left(self, grid: Grid) -> int:
        return len(self.grammar.size_ids[grid]) - self.done + self.grammar.body_length(grid)


@dataclass(frozen=True, slots=True)
class _OpenRows:
    """A picture whose size is known."""

    grammar: RowsGrammar
    grid: Grid
    done: int = 0
    """How many ids there are after the size."""

    @property
    def next_ids(self) -> tuple[int, ...] | None:
        row, place = self._place()
        if row == self.grid.height:
            return (self.grammar.end_image_id,)
        codes = self.grid.width * self.grammar.codes_per_position
        return None if place < codes else (self.grammar.row_end_ids[place - codes],)

    @property
    def codes_left(self) -> int:
        row, place = self._place()
        codes = self.grid.width * self.grammar.codes_per_position
        return (self.grid.height - row) * codes - min(place, codes)

    @property
    def ids_left(self) -> int:
        return self.grammar.body_length(self.grid) - self.done

    @property
    def least_ids_left(self) -> int:
        return self.ids_left

    def accept(self, token_id: int) -> _OpenRows | None:
        return _OpenRows(self.grammar, self.grid, self.done + 1) if self.ids_left > 1 else None

    def _place(self) -> tuple[int, int]:
        """Return the number of complete rows, and the number of ids after them."""
        return divmod(self.done, self.grammar.line_length(self.grid))
