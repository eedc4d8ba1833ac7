"""Prompts: what they may be, and how they become ids.

Shapes: B pictures, N codes a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ..errors import GenerationError
from ..generation import GenerationOptions
from ..generation.rows import start_row
from ..layout import TokenLayout
from ..optional_packages import text_package
from ..picture_grammars import Grid
from ..protocols import ImageTokenizerLike, ProcessorLike
from .parts import sized

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

    from chameleon_text import Segment

# Text, because what they name is imported by type checkers alone.
Picture: TypeAlias = "PILImage | NDArray[np.uint8] | os.PathLike[str]"
"""A picture of a prompt: a PIL image, a uint8 array [H, W, C], or a ``Path``; in a prompt a str is text."""
PromptPart: TypeAlias = "str | Picture | Segment"
"""A part of a prompt: text, a picture, or a segment of chameleon-text."""
Prompt: TypeAlias = "PromptPart | Sequence[PromptPart]"
"""A prompt: one part, or a list of parts."""


def encode_prompts(
    prompts: Sequence[Prompt],
    *,
    template: str,
    options: GenerationOptions,
    processor: ProcessorLike,
    layout: TokenLayout,
    context_length: int,
    image_tokenizer: Callable[[], ImageTokenizerLike],
) -> list[list[int]]:
    """Return the ids of each prompt, once it is known that they fit and that requested pictures can be drawn.

    All pictures of one size that have no codes yet are read as one batch. ``image_tokenizer`` is called where one is
    needed. Raises ``ContextLengthError`` or ``GenerationError`` before any picture is read.
    """
    text = text_package()
    documents = [text.as_document(prompt) for prompt in prompts]
    unread: list[tuple[list[Any], int]] = []
    for row, document in enumerate(documents):
        for place, segment in enumerate(document):
            if isinstance(segment, text.Image) and segment.codes is not None:
                check_complete(f"a picture of prompt {row}", segment, layout)
            elif isinstance(segment, text.Image) and segment.image is not None:
                unread.append((document, place))
    pictures = [document[place].image for document, place in unread]
    grids = [_grid_of(picture, layout, image_tokenizer) for picture in pictures]
    # Any codes show whether the prompts fit the context, so pictures are read only where they do.
    for (document, place), grid in zip(unread, grids, strict=True):
        document[place] = _coded([0] * _num_codes(grid, layout), grid)
    rows = [processor.encode(document, template=template) for document in documents]
    for row, ids in enumerate(rows):
        start_row(row, ids, options, layout=layout, context_length=context_length, stop_ids=frozenset())
    if options.modality == "image" or (options.modality == "interleaved" and options.max_images != 0):
        # No picture at all: an image tokenizer that can't draw raises now, not after the first picture's codes.
        image_tokenizer().decode(torch.empty(0, layout.tokens_per_image, dtype=torch.int64))
    if not pictures:
        return rows
    codes = _read(pictures, grids, layout, image_tokenizer())
    for (document, place), grid, read in zip(unread, grids, codes, strict=True):
        document[place] = _coded(read, grid)
    return [processor.encode(document, template=template) for document in documents]


def _grid_of(picture: Any, layout: TokenLayout, image_tokenizer: Callable[[], ImageTokenizerLike]) -> Grid | None:
    """Return the grid at which a picture is read; None where all pictures have one."""
    if not layout.pictures.has_sizes:
        return None
    return layout.pictures.fit(*sized(image_tokenizer()).picture_size(picture))


def _read(
    pictures: Sequence[Any], grids: Sequence[Grid | None], layout: TokenLayout, image_tokenizer: ImageTokenizerLike
) -> list[list[int]]:
    """Return the codes of pictures; those of one grid are read as one batch."""
    codes: list[list[int]] = [[] for _ in pictures]
    for grid in dict.fromkeys(grids):
        places = [place for place, each in enumerate(grids) if each == grid]
        batch = [pictures[place] for place in places]
        if grid is None:
            codes_BN = image_tokenizer.encode(batch)
        else:
            codes_BN = sized(image_tokenizer).encode(batch, size=layout.pictures.pixels(grid))
        for place, read in zip(places, codes_BN.tolist(), strict=True):
            codes[place] = read
    return codes


def _coded(codes: Sequence[int], grid: Grid | None) -> Any:
    image = text_package().Image
    return image(codes=tuple(codes)) if grid is None else image(codes=tuple(codes), grid=tuple(grid))


def _num_codes(grid: Grid | None, layout: TokenLayout) -> int:
    return layout.tokens_per_image if grid is None else layout.pictures.num_codes(grid)


def check_complete(name: str, segment: Any, layout: TokenLayout) -> None:
    """Raise ``GenerationError`` where a picture that is named so hasn't as many codes as this model's."""
    grid = check_grid(name, segment, layout)
    expected = _num_codes(grid, layout)
    if len(segment.codes) != expected:
        raise GenerationError(
            f"{name} has {len(segment.codes)} codes; this model's pictures have {expected}. "
            "(A picture whose generation was stopped can't be part of a prompt; written=document draws its rest.)"
        )


def check_grid(name: str, segment: Any, layout: TokenLayout) -> Grid | None:
    """Return the grid of a picture, None where all have one. Raises ``GenerationError`` for one of another model."""
    if not layout.pictures.has_sizes:
        return None
    if segment.grid is None or Grid(*segment.grid) not in layout.pictures.grids:
        raise GenerationError(
            f"{name} has {len(segment.codes)} codes in a grid of {segment.grid}, expected the height and width of one "
            "of this model's grids: Image(codes=..., grid=(height, width))."
        )
    return Grid(*segment.grid)
