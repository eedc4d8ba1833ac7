"""The pictures of one model as ids: its grammar, with what writes and reads whole pictures by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from chameleon_backends.plugin_calls import described, plugin_call, wrong

from ._boundary import translates_errors
from .errors import GenerationError, VocabularyError
from .picture_grammars import GrammarContext, Grid, OpenPicture, PictureGrammar
from .plugin_options import check_options
from .registry import PICTURE_GRAMMARS_HOOK, REGISTRY


class WrittenPicture(NamedTuple):
    """A picture that was read from ids."""

    codes: tuple[int, ...]
    """Its codes in reading order, fewer than the grid has where the picture is cut off."""
    grid: Grid | None
    """Its grid; None where the ids end before it is known."""
    end: int
    """The position of the first id after it."""


class PictureFormat:
    """How the pictures of a model are written as ids.

    ``grammar`` says what may come when, ``context`` is what it was made from.
    """

    def __init__(self, grammar: PictureGrammar, context: GrammarContext) -> None:
        self.grammar = grammar
        self.context = context
        self.grids = tuple(Grid(*grid) for grid in grammar.grids)
        self.marker_ids = frozenset(grammar.marker_ids)

    def __repr__(self) -> str:
        sizes = f"{len(self.grids):,} sizes" if self.has_sizes else "{}×{} codes".format(*self.grids[0])
        return f"{type(self).__name__}({type(self.grammar).__name__}, {sizes})"

    @property
    def has_sizes(self) -> bool:
        """Whether pictures may have several sizes."""
        return len(self.grids) > 1

    def check_takes_pixels(self) -> None:
        """Raise ``GenerationError`` where pixels can't stand beside ids, because pictures have several sizes."""
        if self.has_sizes:
            raise GenerationError(
                f"pixel_values stand for pictures of one size, and this model's have {len(self.grids)}. "
                "Encode the prompt by a processor with an image_tokenizer."
            )

    def num_codes(self, grid: tuple[int, int]) -> int:
        """Return how many codes a picture has."""
        return grid[0] * grid[1] * self.context.codes_per_position

    def least_ids(self, grid: Grid | None = None) -> int:
        """Return how many ids the smallest picture takes, or one of a grid, from begin-image to end-image."""
        return 1 + (self._lengths[grid] if grid is not None else min(self._lengths.values()))

    def most_ids(self, grid: Grid | None = None) -> int:
        """Return how many ids the largest picture takes, or one of a grid, from begin-image to end-image."""
        return 1 + (self._lengths[grid] if grid is not None else max(self._lengths.values()))

    def open(self, *, room: int | None = None, grid: Grid | None = None) -> OpenPicture | None:
        """Return the picture that begin-image opens; None where none fits.

        ``room`` is how many ids may follow begin-image, None for any number. ``grid`` is the picture's; None leaves
        the choice of those that fit.
        """
        grids = self.grids if grid is None else (grid,)
        if room is not None:
            grids = tuple(each for each in grids if self._lengths[each] <= room)
        return self.grammar.open(grids) if grids else None

    def write(self, codes: Sequence[int], grid: Sequence[int] | None = None) -> list[int]:
        """Return the ids of a picture, from begin-image to end-image.

        Fewer codes than the grid has are a picture that is cut off: end-image follows the last one. ``grid`` may be
        left out where all pictures have one. Raises ``GenerationError`` where there is no such picture.
        """
        chosen = self._checked_grid(codes, grid)
        ids = [self.context.begin_image_id]
        picture: OpenPicture | None = self.grammar.open((chosen,))
        rest = iter(codes)
        while picture is not None:
            next_ids = picture.next_ids
            if next_ids is not None:
                token_id = next_ids[0]
            elif (code := next(rest, None)) is not None:
                token_id = self.context.code_ids[code]
            else:
                return [*ids, self.context.end_image_id]
            ids.append(token_id)
            picture = picture.accept(token_id)
        return ids

    def read(self, ids: Sequence[int], start: int = 0) -> WrittenPicture:
        """Return the picture whose begin-image is at ``start``, as far as the ids are one.

        An end-image too early belongs to it; it is one that was cut off.
        """
        picture: OpenPicture | None = self.grammar.open(self.grids)
        codes: list[int] = []
        grid = self.grids[0] if not self.has_sizes else None
        end = start + 1
        while picture is not None and end < len(ids):
            token_id = ids[end]
            if not self.may_come(picture, token_id):
                end += token_id == self.context.end_image_id
                break
            if picture.next_ids is None:
                codes.append(self._code_of[token_id])
            picture = picture.accept(token_id)
            grid = grid if picture is None else picture.grid
            end += 1
        return WrittenPicture(tuple(codes), grid, end)

    def may_come(self, picture: OpenPicture, token_id: int) -> bool:
        """Return whether an id may come next in a picture."""
        next_ids = picture.next_ids
        return token_id in self._code_of if next_ids is None else token_id in next_ids

    def pixels(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of a picture in pixels."""
        return grid[0] * self.context.stride, grid[1] * self.context.stride

    def grid_of_size(self, height: int, width: int) -> Grid:
        """Return the grid of a picture of a size in pixels.

        Raises ``GenerationError`` where the model has no pictures of it, with the nearest sizes.
        """
        for grid in self.grids:
            if self.pixels(grid) == (height, width):
                return grid
        nearest = sorted(self.grids, key=lambda grid: math.dist(self.pixels(grid), (height, width)))[:4]
        listed = ", ".join("{}×{}".format(*self.pixels(grid)) for grid in nearest)
        raise GenerationError(
            f"this model has no pictures of {height}×{width} pixels (height × width); "
            f"{'the nearest are' if self.has_sizes else 'all have'} {listed}."
        )

    def fit(self, height: int, width: int) -> Grid:
        """Return the grid at which a picture of a height and width is read.

        It is the one that loses least: to the crop, the ratio of its ratio to the picture's, and to the resolution, the
        ratio of its sides to those of the largest grid.
        """

        def loss(grid: Grid) -> float:
            cropped = abs(math.log(grid.height * width / (grid.width * height)))
            return cropped - math.log(grid.height * grid.width) / 2

        return min(self.grids, key=loss)

    @cached_property
    def _lengths(self) -> dict[Grid, int]:
        """How many ids follow begin-image, for each grid."""
        return {grid: self.grammar.open((grid,)).ids_left for grid in self.grids}

    @cached_property
    def _code_of(self) -> dict[int, int]:
        return {token_id: code for code, token_id in enumerate(self.context.code_ids)}

    def _checked_grid(self, codes: Sequence[int], grid: Sequence[int] | None) -> Grid:
        if grid is None:
            if self.has_sizes:
                raise GenerationError(
                    f"a picture of {len(codes)} codes has no grid; pictures of this model have {len(self.grids)} "
                    "sizes, so give the height and width of its grid of codes."
                )
            chosen = self.grids[0]
        else:
            chosen = Grid(*grid)
        if chosen not in self._lengths:
            raise GenerationError(f"this model has no pictures of {chosen.height}×{chosen.width} codes.")
        if len(codes) > self.num_codes(chosen):
            raise GenerationError(
                f"a picture of {chosen.height}×{chosen.width} has {self.num_codes(chosen)} codes; got {len(codes)}."
            )
        beyond = [code for code in codes if not 0 <= code < len(self.context.code_ids)]
        if beyond:
            raise GenerationError(f"picture codes run from 0 to {len(self.context.code_ids) - 1}; got {beyond[0]}.")
        return chosen


@translates_errors
def picture_format(requested: str | Mapping[str, Any], context: GrammarContext) -> PictureFormat:
    """Return the pictures of a model by the grammar that its config names, alone or with options.

    Raises ``UnknownPluginError`` with the installed ones, ``ConfigError`` for an option that the grammar doesn't have,
    ``VocabularyError`` where the vocabulary has no ids for it, ``BrokenPluginError`` where the plugin can't be used.
    """
    options = {"name": requested} if isinstance(requested, str) else dict(requested)
    name = options.pop("name")
    found = REGISTRY.find(PICTURE_GRAMMARS_HOOK, name)
    spec = found.spec
    reason = spec.why_unsupported(context)
    if reason is not None:
        raise VocabularyError(f"the picture grammar {name!r} can't be used with this model: {reason.rstrip('.')}.")
    check_options(spec, options, kind="picture grammar", field="picture_grammar", arguments=1)
    grammar = spec.make(context, **options)
    for attribute in ("grids", "marker_ids", "open"):
        if not hasattr(grammar, attribute):
            wrong(spec.called, f"{described(grammar)} without {attribute}; see picture_grammars.PictureGrammar.")
    with plugin_call(spec.called, "reading its grids"):
        return PictureFormat(grammar, context)
