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
from ..protocols import ImageTokenizerLike, ProcessorLike

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

    All pictures that have no codes yet are read as one batch. ``image_tokenizer`` is called where one is needed. Raises
    ``ContextLengthError`` or ``GenerationError`` before any picture is read.
    """
    text = text_package()
    documents = [text.as_document(prompt) for prompt in prompts]
    unread: list[tuple[list[Any], int]] = []
    for row, document in enumerate(documents):
        for place, segment in enumerate(document):
            if isinstance(segment, text.Image) and segment.codes is not None:
                _check_complete(row, len(segment.codes), layout)
            elif isinstance(segment, text.Image) and segment.image is not None:
                unread.append((document, place))
    pictures = [document[place].image for document, place in unread]
    # Any codes show whether the prompts fit the context, so pictures are read only where they do.
    for document, place in unread:
        document[place] = text.Image(codes=(0,) * layout.tokens_per_image)
    rows = [processor.encode(document, template=template) for document in documents]
    for row, ids in enumerate(rows):
        start_row(row, ids, options, layout=layout, context_length=context_length, stop_ids=frozenset())
    if options.modality != "text":
        # No picture at all: an image tokenizer that can't draw raises now, not after the first picture's codes.
        image_tokenizer().decode(torch.empty(0, layout.tokens_per_image, dtype=torch.int64))
    if not pictures:
        return rows
    codes_BN = image_tokenizer().encode(pictures)
    for (document, place), codes in zip(unread, codes_BN.tolist(), strict=True):
        document[place] = text.Image(codes=codes)
    return [processor.encode(document, template=template) for document in documents]


def _check_complete(row: int, num_codes: int, layout: TokenLayout) -> None:
    if num_codes != layout.tokens_per_image:
        raise GenerationError(
            f"a picture of prompt {row} has {num_codes} codes; this model's pictures have {layout.tokens_per_image}. "
            "(A picture whose generation was stopped can't be part of a prompt.)"
        )
