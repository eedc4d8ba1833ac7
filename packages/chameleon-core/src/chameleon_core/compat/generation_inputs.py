"""The prompts of a call of ``generate``: ids, embeddings or nothing, with their padding.

Shapes: B batch, T prompt length, E hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, GenerationError, InputError
from ..generation.prompts import check_type, mask_of_padding, unpadded


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a call."""

    shown_BT: Tensor
    """The ids as they were given, which a streamer is shown, int64 [B, T]."""
    ids_BT: Tensor
    """The ids that are returned, int64 [B, T]: those of pictures in the place of placeholders, nothing for prompts that
    are embeddings alone."""
    rows: tuple[tuple[int, ...], ...]
    """The ids of each row without padding; the padding id stands for each embedding."""
    embeddings: tuple[Tensor, ...]
    """The embeddings of each row [T, E] without padding; empty where the prompts are ids."""
    width: int
    """How many ids ``max_length`` counts of the prompts, padding included."""

    def repeated(self, times: int) -> Prompts:
        """Return the prompts with each row several times, one after the other."""
        if times == 1:
            return self
        return Prompts(
            self.shown_BT.repeat_interleave(times, dim=0),
            self.ids_BT.repeat_interleave(times, dim=0),
            tuple(row for row in self.rows for _ in range(times)),
            tuple(row for row in self.embeddings for _ in range(times)),
            self.width,
        )


def read_prompts(
    model: Any, given: Mapping[str, Any], *, pad_id: int | None, fill_id: int, ends: tuple[int, ...]
) -> Prompts:
    """Return the prompts of a call of ``generate`` from its arguments.

    ``pad_id`` is what marks padding where there is no mask, ``fill_id`` what stands for embeddings, ``ends`` the ids
    that end rows. Raises ``InputError`` or ``ArgumentError`` where the arguments don't make prompts.
    """
    input_ids, mask_BT, embeds_BTE = _ids(model, given), given["attention_mask"], given["inputs_embeds"]
    if input_ids is None and embeds_BTE is None:
        raise InputError("generate() has no prompt; pass input_ids, inputs_embeds or bos_token_id to begin with.")
    if embeds_BTE is not None:
        return _embedded(model, input_ids, embeds_BTE, mask_BT, fill_id)
    check_type(input_ids)
    assert input_ids is not None
    shown_BT = input_ids
    if given["mm_token_type_ids"] is not None:
        _check_types(model, input_ids, given["mm_token_type_ids"])
    if given["pixel_values"] is not None:
        input_ids = model.insert_images(input_ids, given["pixel_values"])
    if mask_BT is None:
        mask_BT = mask_of_padding(input_ids, pad_id, ends)
    rows = unpadded(input_ids, mask_BT)
    if given["position_ids"] is not None:
        _check_positions(given["position_ids"], input_ids, mask_BT)
    return Prompts(shown_BT, input_ids, tuple(map(tuple, rows)), (), input_ids.shape[1])


def _ids(model: Any, given: Mapping[str, Any]) -> Tensor | None:
    if given["inputs"] is not None and given["input_ids"] is not None:
        raise ArgumentError("generate() has both inputs and input_ids, which mean the same; pass one of them.")
    ids: Tensor | None = given["input_ids"] if given["inputs"] is None else given["inputs"]
    begin = given["bos_token_id"]
    if ids is None and begin is None and given["inputs_embeds"] is None:
        begin = model.config.bos_token_id
    if ids is None and begin is not None and given["inputs_embeds"] is None:
        ids = torch.tensor([[int(begin)]], device=model.device)
    return ids


def _embedded(
    model: Any, input_ids: Tensor | None, embeds_BTE: Tensor, mask_BT: Tensor | None, fill_id: int
) -> Prompts:
    """Return prompts of embeddings; ids beside them are what is returned and what processors see."""
    width = model.config.hidden_size
    if embeds_BTE.dim() != 3 or embeds_BTE.shape[-1] != width or not embeds_BTE.is_floating_point():
        raise InputError(
            f"inputs_embeds must be floating-point [batch, length, {width}]; got {list(embeds_BTE.shape)} of "
            f"{embeds_BTE.dtype}."
        )
    if input_ids is not None and input_ids.shape != embeds_BTE.shape[:2]:
        raise InputError(
            f"input_ids {list(input_ids.shape)} and inputs_embeds {list(embeds_BTE.shape)} have different lengths; "
            "pass inputs_embeds alone, or the ids that they stand for."
        )
    batch, length = embeds_BTE.shape[:2]
    stand_ins_BT = torch.full((batch, length), fill_id, device=embeds_BTE.device) if input_ids is None else input_ids
    rows = tuple(map(tuple, unpadded(stand_ins_BT, mask_BT)))
    embeddings = (
        tuple(embeds_BTE)
        if mask_BT is None
        else tuple(embeds_TE[real_T] for embeds_TE, real_T in zip(embeds_BTE, mask_BT.bool(), strict=True))
    )
    ids_BT = stand_ins_BT[:, :0] if input_ids is None else input_ids
    return Prompts(ids_BT, ids_BT, rows, embeddings, length)


def _check_types(model: Any, input_ids: Tensor, types_BT: Tensor) -> None:
    expected_BT = (input_ids == model.layout.placeholder_id).to(types_BT.dtype)
    if types_BT.shape != input_ids.shape or not torch.equal(types_BT.to(expected_BT.device), expected_BT):
        raise InputError(
            "mm_token_type_ids must be 1 where input_ids has image placeholders and 0 elsewhere, as the processor "
            "returns them; leave it out, the ids say where the pictures are."
        )


def _check_positions(position_ids: Tensor, input_ids: Tensor, mask_BT: Tensor | None) -> None:
    real_BT = torch.ones_like(input_ids) if mask_BT is None else mask_BT.long()
    expected_BT = (real_BT.cumsum(dim=1) - 1).clamp(min=0)
    shown_BT = position_ids.expand_as(input_ids) if position_ids.shape[-1:] == input_ids.shape[-1:] else None
    if shown_BT is None or not torch.equal(shown_BT * real_BT, expected_BT * real_BT):
        raise GenerationError(
            "position_ids must count from each row's first real position; generation counts so by itself. Leave it out."
        )
