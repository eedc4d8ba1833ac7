"""What a row has written before, as the ids that it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import GenerationError
from ..layout import TokenLayout
from ..optional_packages import text_package
from ..protocols import ProcessorLike
from .prompts import check_complete, check_grid

if TYPE_CHECKING:
    from chameleon_text import Document, Segment

Written: TypeAlias = "Sequence[Segment] | Sequence[int]"
"""What an interrupted run had written: its document, or its ids, the ``new_ids`` of ``Finished``."""

LAST = "the last picture that was written"


def written_ids(written: Written, processor: ProcessorLike, layout: TokenLayout) -> list[int]:
    """Return the ids of what was written, which may end within a picture.

    Raises ``GenerationError`` where a picture before the last segment isn't complete, or isn't one of this model's.
    """
    if all(isinstance(each, int) for each in written):
        return [each for each in written if isinstance(each, int)]
    text = text_package()
    document = text.as_document(written)
    finished = finished_part(document, layout)
    for segment in finished:
        if isinstance(segment, text.Image) and segment.codes is not None:
            check_complete("a picture before the end of what was written", segment, layout)
    ids: list[int] = list(processor.encode(finished, template="completion"))
    ids = ids[1:] if ids[:1] == [layout.bos_id] else ids
    return ids if len(finished) == len(document) else [*ids, *_open_picture(document[-1], layout)]


def finished_part(document: Document, layout: TokenLayout) -> Document:
    """Return a document without the picture at its end that isn't complete."""
    text = text_package()
    is_open = document and isinstance(document[-1], text.Image) and _lacks_codes(document[-1], layout)
    return text.as_document(document[:-1] if is_open else document)


def _lacks_codes(picture: Any, layout: TokenLayout) -> bool:
    if not picture.codes:
        return picture.codes is not None
    grid = check_grid(LAST, picture, layout) or layout.pictures.grids[0]
    return len(picture.codes) < layout.pictures.num_codes(grid)


def _open_picture(picture: Any, layout: TokenLayout) -> list[int]:
    """Return begin-image and what was written after it: the codes, and the ids that are forced before each."""
    ids = [layout.begin_image_id]
    if not picture.codes:
        return ids
    beyond = sorted({code for code in picture.codes if not 0 <= code < layout.num_codes})
    if beyond:
        raise GenerationError(f"{LAST} has codes {beyond[:8]}; the model's are 0…{layout.num_codes - 1}.")
    state = layout.pictures.open(grid=check_grid(LAST, picture, layout))
    for code in picture.codes:
        assert state is not None
        while state is not None and state.next_ids is not None:
            ids.append(state.next_ids[0])
            state = state.accept(ids[-1])
        ids.append(int(layout.code_to_id_Z[code]))
        state = state and state.accept(ids[-1])
    return ids
