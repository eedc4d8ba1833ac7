"""The grammar of Lumina-mGPT (arXiv 2408.02657): begin-image, the size, rows of codes with an end each, end-image.

Its sizes are in units of 32 pixels, two codes in each direction. The numbers are those in the names of Chameleon's
reserved ids: 8800 and the number of units from top to bottom, 8800 and that from left to right, 8799 after each row of
codes.
"""

from __future__ import annotations

from ..errors import ConfigError
from .contract import GrammarContext, Grid
from .rows_grammar import RowsGrammar

ROW_END = 8799
SIZE = 8800
CODES_OF_A_UNIT = 2
"""How many codes a unit of size has in each direction."""
LARGEST_SIDE = 256
"""The largest number of units of a side: 8,192 pixels. A longer run of names in a file must not take memory."""


def lumina(context: GrammarContext, *, max_codes: int | None = None, max_ratio: float = 4) -> RowsGrammar:
    """Return the grammar.

    ``max_codes`` is the largest number of codes of a picture, ≥ 4; None, the default, is that of the image tokenizer's
    own resolution. ``max_ratio`` is the largest ratio of the longer side to the shorter, ≥ 1; 4 by default. Raises
    ``ConfigError`` for values outside of these.
    """
    if max_codes is None:
        max_codes = context.grid.height * context.grid.width
    if isinstance(max_codes, bool) or not isinstance(max_codes, int) or max_codes < CODES_OF_A_UNIT**2:
        raise ConfigError(f"max_codes of the picture grammar 'lumina' must be an integer ≥ 4; got {max_codes!r}.")
    if isinstance(max_ratio, bool) or not isinstance(max_ratio, int | float) or not max_ratio >= 1:
        raise ConfigError(f"max_ratio of the picture grammar 'lumina' must be a number ≥ 1; got {max_ratio!r}.")
    sides: dict[int, int] = {}
    while len(sides) < LARGEST_SIDE and (name := reserved(SIZE + len(sides) + 1)) in context.token_ids:
        sides[len(sides) + 1] = context.token_ids[name]
    units = max_codes // CODES_OF_A_UNIT**2
    return RowsGrammar(
        size_ids={
            Grid(CODES_OF_A_UNIT * height, CODES_OF_A_UNIT * width): (height_id, width_id)
            for height, height_id in sides.items()
            for width, width_id in sides.items()
            if height * width <= units and max(height, width) <= max_ratio * min(height, width)
        },
        end_image_id=context.end_image_id,
        row_end_ids=(context.token_ids[reserved(ROW_END)],),
        codes_per_position=context.codes_per_position,
    )


def unsupported(context: GrammarContext) -> str | None:
    """Return why a vocabulary can't have such pictures; None where it can."""
    needed = [reserved(ROW_END), reserved(SIZE + 1)]
    missing = [name for name in needed if name not in context.token_ids]
    return f"the vocabulary lacks {' and '.join(missing)}" if missing else None


def reserved(number: int) -> str:
    """Return the name of a reserved id: ``reserved(8799) == "<reserved08799>"``."""
    return f"<reserved{number:05d}>"
