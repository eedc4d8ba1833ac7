"""What is checked of a model's inputs at its door.

Shapes: B batch, T query length.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..config import ChameleonConfig
from ..errors import InputError, InputWarning, VocabularyError
from ..generation.prompts import check_type


def check_form(input_ids: Tensor) -> None:
    """Raise ``InputError`` where ids aren't an integer tensor [B, T] with positions."""
    check_type(input_ids)
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise InputError(f"input_ids must be [batch, length]; got {list(input_ids.shape)}.")


def check_call(
    input_ids: Tensor | None,
    config: ChameleonConfig,
    pad_id: int | None,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    cache: Any,
) -> None:
    """Check the ids of a call, as ``check_ids`` does, and warn of padding that nothing hides.

    The steps of a loop, which continue a cache, aren't checked: a GPU would wait in each of them.
    """
    if input_ids is None or (hasattr(cache, "get_seq_length") and cache.get_seq_length()):
        return
    check_form(input_ids)
    check_ids(input_ids, config.vocab_size)
    if cache is None and attention_mask is None and document_ids is None:
        warn_of_padding(input_ids, pad_id)


def check_ids(input_ids_BT: Tensor, vocab_size: int) -> None:
    """Raise ``VocabularyError`` where an id is outside the vocabulary, with its position.

    The host waits for the device once, unless a graph is being compiled.
    """
    if torch.compiler.is_compiling() or input_ids_BT.is_meta:
        return
    outside_BT = (input_ids_BT < 0) | (input_ids_BT >= vocab_size)
    if bool(outside_BT.any()):
        places = outside_BT.nonzero()
        row, place = places[0].tolist()
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        raise VocabularyError(
            f"input_ids[{row}, {place}] is {int(input_ids_BT[row, place])}, which is outside the vocabulary{more}; "
            f"expected 0…{vocab_size - 1}. Padding is marked by attention_mask, and takes any id of the vocabulary."
        )


def warn_of_padding(input_ids_BT: Tensor, pad_id: int | None) -> None:
    """Warn where rows begin with padding and no mask hides it."""
    if pad_id is None or torch.compiler.is_compiling() or input_ids_BT.is_meta:
        return
    if bool((input_ids_BT[:, 0] == pad_id).any()):
        warnings.warn(
            f"input_ids has rows that begin with the padding id {pad_id}, and there is no attention_mask, so that real "
            "positions attend to padding. Pass attention_mask=(input_ids != padding).",
            InputWarning,
            stacklevel=5,
        )


def check_cache_position(cache_position: Tensor | None, past: int, query_length: int) -> None:
    """Raise ``InputError`` where the slots of new positions aren't those that follow the cache's."""
    if cache_position is None or torch.compiler.is_compiling():
        return
    expected = list(range(past, past + query_length))
    given = cache_position.flatten().tolist()
    if given != expected:
        raise InputError(
            f"cache_position is {given!r:.80}; new positions are stored after the {past} in "
            f"the cache: torch.arange({past}, {past + query_length}). Leave it out."
        )


def kept_positions(logits_to_keep: int | Tensor) -> slice | Tensor:
    """Return the positions whose logits are computed. Raises ``InputError`` for a negative number."""
    if isinstance(logits_to_keep, Tensor):
        return logits_to_keep
    if logits_to_keep < 0:
        raise InputError(f"logits_to_keep must be ≥ 0 (0: all positions); got {logits_to_keep}.")
    return slice(-logits_to_keep or None, None)
