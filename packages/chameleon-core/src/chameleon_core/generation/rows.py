"""The state of each row: what may come next, which is text, begin-image, a code of a picture, or end-image.

Rows of one batch are in different states at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ContextLengthError, GenerationError
from ..layout import TokenLayout
from .options import GenerationOptions, Modality

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class Row:
    """One row of a request: its ids so far and its state."""

    index: int
    """The index of the row in the request."""
    prompt: tuple[int, ...]
    """The ids of the prompt."""
    modality: Modality
    """What the row may write."""
    limit: int
    """The largest number of ids that may follow the prompt."""
    max_images: int | None
    """The largest number of pictures that the row may begin; None for no limit."""
    stop_ids: frozenset[int]
    """The ids that end the row."""
    layout: TokenLayout | None
    """The meaning of the ids; None where it is unknown and all ids are text."""
    new_ids: list[int] = field(default_factory=list)
    """The ids after the prompt."""
    codes_left: int | None = None
    """The number of codes that the open picture lacks; None outside of pictures."""
    images_begun: int = 0
    """The number of pictures that the row has begun after the prompt."""
    finish_reason: FinishReason | None = None
    """Why the row ended: "stop" or "length"; None while it runs."""

    @property
    def ids(self) -> list[int]:
        """The prompt and the ids after it."""
        return [*self.prompt, *self.new_ids]

    @property
    def wants_code(self) -> bool:
        """Whether the next id is a picture code."""
        return bool(self.codes_left)

    @property
    def just_began_image(self) -> bool:
        """Whether the last id is begin-image."""
        return self.layout is not None and self.codes_left == self.layout.tokens_per_image

    @property
    def forced_id(self) -> int | None:
        """The next id where only one is allowed, else None."""
        if self.layout is None:
            return None
        if self.codes_left == 0:
            return self.layout.end_image_id
        if self.codes_left is None and self.modality == "image":
            return self.layout.begin_image_id
        return None

    @property
    def may_begin_image(self) -> bool:
        """Whether begin-image may come next: for a picture that fits the limit, or because it ends the row."""
        if self.layout is None:
            return False
        if self.layout.begin_image_id in self.stop_ids:
            return True
        if self.modality != "interleaved":
            return False
        if self.max_images is not None and self.images_begun >= self.max_images:
            return False
        return self.limit - len(self.new_ids) >= self.layout.tokens_per_image + 2

    def accept(self, token_id: int) -> None:
        """Append the next id and update the state."""
        self.new_ids.append(token_id)
        if token_id in self.stop_ids:
            self.finish_reason = "stop"
        elif self.codes_left:
            self.codes_left -= 1
        elif self.codes_left == 0:
            self.codes_left = None
            if self.modality == "image":
                self.finish_reason = "stop"
        elif self.layout is not None and token_id == self.layout.begin_image_id:
            self.codes_left = self.layout.tokens_per_image
            self.images_begun += 1
        if self.finish_reason is None and len(self.new_ids) >= self.limit:
            self.finish_reason = "length"


def start_row(
    index: int,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    layout: TokenLayout | None,
    context_length: int,
    stop_ids: frozenset[int],
) -> Row:
    """Return a row at the end of its prompt, which is inside a picture where the prompt leaves one open.

    Raises ``ContextLengthError`` where the context is too short for the request, ``GenerationError`` where the prompt
    and the options contradict each other.
    """
    if not prompt:
        raise GenerationError(f"row {index} of the batch is empty; a prompt needs at least one id.")
    if layout is None and options.modality != "text":
        raise GenerationError(
            f"modality={options.modality!r} needs the ids of pictures, and the config has no vocabulary_map."
        )
    codes_left = None if layout is None else _codes_left(index, prompt, layout)
    if codes_left is not None and options.modality == "text":
        raise GenerationError(
            f"row {index} ends inside a picture, which modality='text' can't complete; use 'image' or 'interleaved'."
        )
    room = context_length - len(prompt)
    needed = 1
    if layout is not None and options.modality == "image":
        needed = layout.tokens_per_image + 2 if codes_left is None else codes_left + 1
    limit = options.max_new_tokens
    if limit is None:
        limit = needed if options.modality == "image" else max(room, needed)
    if limit < needed:
        raise GenerationError(
            f"a picture needs {needed} more ids; max_new_tokens is {limit}. Raise it, or leave it out."
        )
    if limit > room:
        raise ContextLengthError(
            f"row {index} has {len(prompt)} ids and may take {limit} more, together {len(prompt) + limit}; "
            f"the context holds {context_length}. Shorten the prompt by {limit - room} or lower max_new_tokens."
        )
    return Row(
        index, tuple(prompt), options.modality, limit, options.max_images, stop_ids, layout, codes_left=codes_left
    )


def _codes_left(index: int, prompt: Sequence[int], layout: TokenLayout) -> int | None:
    """Return how many codes the picture at the end of the prompt lacks; None where the prompt ends in text."""
    if layout.placeholder_id in prompt:
        raise GenerationError(
            f"row {index} holds {prompt.count(layout.placeholder_id)} image placeholders; "
            "pass the pictures as pixel_values, or encode the prompt with real ids."
        )
    begin = max((place for place, token_id in enumerate(prompt) if token_id == layout.begin_image_id), default=None)
    if begin is None or layout.end_image_id in prompt[begin:]:
        return None
    strays = [token_id for token_id in prompt[begin + 1 :] if token_id not in layout.picture_ids]
    if strays:
        raise GenerationError(
            f"row {index} ends inside a picture that holds ids {strays[:8]}, which aren't picture codes; "
            f"end it with end-image (id {layout.end_image_id})."
        )
    left = layout.tokens_per_image - (len(prompt) - begin - 1)
    if left < 0:
        raise GenerationError(
            f"row {index} ends in a picture of {layout.tokens_per_image - left} codes without end-image; "
            f"a picture has {layout.tokens_per_image}."
        )
    return left
