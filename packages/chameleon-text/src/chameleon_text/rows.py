"""Rows of a processor's call as a batch: cut, padded, with masks and labels.

Shapes: B rows, T ids of the longest row.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from .batch import integers_as, make_batch
from .compat.text_arguments import TextArguments, text_arguments
from .errors import ConfigError
from .segments import Image
from .templates import Piece
from .training import Labels, Row
from .vocabulary import Vocabulary

_OWN = (
    "images",
    "text",
    "answers",
    "labels",
    "allow_special",
    "return_mm_token_type_ids",
    "images_kwargs",
    "text_kwargs",
)
_OF_ONE_TEXT = (
    "return_offsets_mapping",
    "return_overflowing_tokens",
    "is_split_into_words",
    "split_special_tokens",
    "stride",
)


class RowsOwner(Protocol):
    """What is needed of a processor."""

    tokenizer: Any

    @property
    def vocabulary(self) -> Vocabulary:
        """Which ids are text, special, or picture codes."""

    def create_mm_token_type_ids(self, input_ids: Sequence[Sequence[int]], /) -> list[list[int]]:
        """Return for each id whether it belongs to a picture."""


class ProcessorArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a processor's call that aren't about pictures."""

    text: TextArguments
    """How prompts become rows of ids."""
    return_for_text_completion: bool = False
    """Whether prompts are left as they are, for a model to continue; by default the template renders them."""
    return_mm_token_type_ids: bool = False
    """Whether to return ``mm_token_type_ids``, 1 for the ids of pictures; by default not."""


def processor_arguments(arguments: Mapping[str, Any], for_completion: bool | None) -> ProcessorArguments:
    """Return the arguments of a call, checked. Raises ``ConfigError`` for what isn't understood or has no effect.

    Without ``return_tensors`` it is "pt" where PyTorch is installed, as in ``transformers``.
    """
    rest = dict(arguments)
    completion = rest.pop("return_for_text_completion", None)
    if completion is not None and for_completion is not None:
        raise ConfigError("return_for_text_completion is given twice, as an argument and in text_kwargs.")
    completion = for_completion if completion is None else completion
    of_pictures = rest.pop("return_mm_token_type_ids", None)
    for name, value in (("return_for_text_completion", completion), ("return_mm_token_type_ids", of_pictures)):
        if value not in (None, True, False):
            raise ConfigError(f"{name} is {value!r:.80}, expected True or False.")
    if rest.get("text_pair") is not None:
        raise ConfigError("text_pair isn't used by this model, which reads one text. Join the two, or use answers=.")
    rest.pop("text_pair", None)
    if rest.pop("return_text_replacement_offsets", None) or rest.pop("return_metadata", None):
        raise ConfigError(
            "places of pictures in the text aren't returned; return_mm_token_type_ids=True says which ids."
        )
    for name in _OF_ONE_TEXT:
        if rest.get(name):
            raise ConfigError(
                f"{name}={rest[name]!r:.80} is of one text, and a prompt has pictures and special tokens. "
                "processor.tokenizer(text, ...) does it."
            )
    rest.setdefault("return_tensors", "pt" if _has_torch() else None)
    options = text_arguments(rest, known=_OWN, caller="the processor")
    return ProcessorArguments(
        text=options, return_for_text_completion=bool(completion), return_mm_token_type_ids=bool(of_pictures)
    )


def without_pixels(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces whose pictures are placeholders."""
    return [
        Piece(Image(), piece.answer) if isinstance(piece.segment, Image) and piece.segment.codes is None else piece
        for piece in pieces
    ]


def batch_of_rows(
    rows: Sequence[Row],
    owner: RowsOwner,
    options: ProcessorArguments,
    *,
    labels: Labels | None = None,
    assistant_masks: bool = False,
) -> dict[str, Any]:
    """Return rows as the columns of a batch, [B, T] each.

    Raises ``ConfigError`` where truncation would cut a picture, and where rows of several lengths form no tensor.
    """
    text, tokenizer, vocabulary = options.text, owner.tokenizer, owner.vocabulary
    cut_to, pad_to, pads = text.lengths(tokenizer.model_max_length)
    if cut_to is not None:
        side = text.truncation_side or tokenizer.truncation_side
        rows = [_cut(row, cut_to, owner, number, left=side == "left") for number, row in enumerate(rows)]
    columns: dict[str, Sequence[Sequence[int]]] = {}
    if text.return_special_tokens_mask:
        columns["special_tokens_mask"] = [row.around for row in rows]
    if text.return_token_type_ids:
        columns["token_type_ids"] = [[0] * len(row.ids) for row in rows]
    if options.return_mm_token_type_ids:
        columns["mm_token_type_ids"] = owner.create_mm_token_type_ids([row.ids for row in rows])
    if assistant_masks:
        columns["assistant_masks"] = [[int(each) for each in row.answers] for row in rows]
    placeholder_id = vocabulary.image_placeholder_id
    batch = make_batch(
        [row.ids for row in rows],
        pad_id=tokenizer.pad_token_id,
        labels=None if labels is None else [row.labels(labels, placeholder_id=placeholder_id) for row in rows],
        padding=pads,
        padding_side=text.padding_side or tokenizer.padding_side,
        return_tensors=text.return_tensors,
        length=pad_to,
        multiple=text.pad_to_multiple_of or 1,
        columns=columns,
    )
    if text.return_attention_mask is False:
        del batch["attention_mask"]
    if text.return_length:
        batch["length"] = integers_as([len(row) for row in batch["input_ids"]], text.return_tensors)
    return batch


def _cut(row: Row, length: int, owner: RowsOwner, number: int, *, left: bool) -> Row:
    """Return a row of at most so many ids, which keeps what was put around it."""
    if len(row.ids) <= length:
        return row
    first, last = _leading(row.around), _leading(row.around[::-1])
    room = length - first - last
    if room < 0:
        raise ConfigError(f"max_length is {length}, and {first + last} ids are put around each prompt. Pass more.")
    end = len(row.ids) - last
    kept = slice(end - room, end) if left else slice(first, first + room)
    before, after = slice(0, first), slice(end, len(row.ids))
    cut = Row(*([*each[before], *each[kept], *each[after]] for each in (row.ids, row.answers, row.around)))
    # As in transformers, which would be left with other placeholders than pictures.
    if sum(owner.create_mm_token_type_ids([row.ids])[0]) != sum(owner.create_mm_token_type_ids([cut.ids])[0]):
        raise ConfigError(
            f"prompt {number} has {len(row.ids)} ids, and cutting it to {length} would cut a picture. Pass a larger "
            "max_length, or leave truncation out."
        )
    return cut


def _leading(flags: Sequence[int]) -> int:
    return next((place for place, flag in enumerate(flags) if not flag), len(flags))


@functools.cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None
