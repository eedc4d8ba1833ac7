"""The segments that a row may hold beside text: pictures, and those of codecs that have a grammar."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from .._boundary import translates_errors
from ..errors import ConfigError
from ..layout import TokenLayout
from ..picture_grammars import Grid
from ..protocols import OpenSegmentLike, SegmentGrammarLike
from .fixed_codes import PartlyFixed

Kind: TypeAlias = str
"""What is written: "text", "image" (a picture), or the name of a segment codec (one of its segments)."""

PICTURE: Kind = "image"


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """An id that begins a segment."""

    name: Kind
    """The kind of the segment."""
    begin_id: int
    """The id."""
    open: Callable[[int | None], OpenSegmentLike | None]
    """Returns the segment after the id, by how many ids may follow; None where nothing follows."""
    least_ids: int
    """How many ids the shortest such segment has, the beginning included."""
    most_ids: int | None
    """How many ids the longest one has; None for no limit."""

    @property
    def called(self) -> str:
        """What errors call the segment."""
        return called(self.name)


def called(kind: Kind) -> str:
    """Return what errors call a segment of a kind."""
    return "a picture" if kind == PICTURE else f"a segment of {kind!r}"


def beginnings(layout: TokenLayout, grid: Grid | None, fixed_ids: tuple[int | None, ...]) -> Mapping[int, Beginning]:
    """Return the ids that begin segments.

    ``grid`` is that of pictures, None where the model chooses; ``fixed_ids`` are the ids of their given codes.
    """
    pictures = layout.pictures
    picture = Beginning(
        PICTURE,
        layout.begin_image_id,
        partial(_open_picture, layout, grid, fixed_ids),
        pictures.least_ids(grid),
        pictures.most_ids(grid),
    )
    found = {picture.begin_id: picture}
    for name, grammar in layout.segment_grammars.items():
        for begin_id in grammar.begin_ids:
            found[begin_id] = _beginning(name, grammar, begin_id)
    return found


def writable(beginnings: Iterable[Beginning]) -> tuple[str, ...]:
    """Return the modalities of a model, by what may begin in it."""
    return ("text", "interleaved", *dict.fromkeys(each.name for each in beginnings))


def unknown_modality(name: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a modality that a model doesn't have."""
    close = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"GenerationOptions.modality is {name!r}, and this model writes {', '.join(map(repr, known))}."
        + (f" Did you mean {close[0]!r}?" if close else "")
        + " (The segments of a codec can be written where the codec has a grammar and the model knows of it, as in a "
        "pipeline: Chameleon(model, processor).)"
    )


def _open_picture(
    layout: TokenLayout, grid: Grid | None, fixed_ids: tuple[int | None, ...], room: int | None
) -> OpenSegmentLike | None:
    picture = layout.pictures.open(room=room, grid=grid)
    return PartlyFixed(picture, fixed_ids) if fixed_ids and picture is not None else picture


def _beginning(name: str, grammar: SegmentGrammarLike, begin_id: int) -> Beginning:
    opened = _open_segment(grammar, begin_id, None)
    least, most = (0, 0) if opened is None else (opened.least_ids_left, opened.ids_left)
    open_segment = partial(_open_segment, grammar, begin_id)
    return Beginning(name, begin_id, open_segment, 1 + least, None if most is None else 1 + most)


@translates_errors
def _open_segment(grammar: SegmentGrammarLike, begin_id: int, room: int | None) -> OpenSegmentLike | None:
    return grammar.open(begin_id, room)
